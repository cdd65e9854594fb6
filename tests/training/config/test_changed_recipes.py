"""A recipe, data or a checkpoint that were edited never go unnoticed: what changed is named, and nothing is lost."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from cos.evaluation.files import take_lock
from cos.search.errors import InputError
from cos.training.cli import app, run_all
from cos.training.config.recipe import Recipe
from cos.training.config.recipe_file import parse_recipe
from cos.training.data.rows import write_rows
from cos.training.data.sources import MixedChains
from cos.training.runs import digest
from cos.training.runs.digest import STAGE, begin, changes, read_record, record_of
from cos.training.runs.folder import DONE, StageContext
from tests.training.stages.test_label import chain, slipped

LABELS = """
name: small
runs: {folder}/runs
stages:
  - stage: label
    name: first
    chains: [{folder}/chains.jsonl]
  - stage: label
    name: second
    chains: [first/chains.jsonl]
"""
SFT = """
name: small
runs: {folder}/runs
stages:
  - stage: sft
    model: {folder}/base
    data: [{folder}/chains.jsonl]
    steps: 20
    learning_rate: 1.0e-5
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe of two stages that need no model, with its data."""
    write_rows(tmp_path / "chains.jsonl", [chain(tmp_path, 0), slipped(tmp_path)])
    file = tmp_path / "recipe.yaml"
    file.write_text(LABELS.format(folder=tmp_path))
    return file


@pytest.fixture
def sft(tmp_path: Path) -> Recipe:
    """A recipe that trains, with data and something that stands for a checkpoint."""
    write_rows(tmp_path / "chains.jsonl", [chain(tmp_path, 0)])
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"weights")
    return parse_recipe(SFT.format(folder=tmp_path))


def begun(recipe: Recipe, *, interrupted: bool = True, **keys: Any) -> StageContext:
    """The first stage of a recipe (with other keys) as it begins; ``interrupted``: behind a checkpoint of its own."""
    stage = recipe.stages[0].model_copy(update=keys)
    where = begin(recipe, stage, recipe.context(stage))
    if interrupted:
        (where.folder / "checkpoint-10").mkdir(exist_ok=True)
    return where


def edit_key(recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("    name: first\n", "    name: first\n    hard_above: 0.25\n"))


def edit_seed(recipe: Path) -> None:
    recipe.write_text(recipe.read_text() + "seed: 3\n")


def edit_data(recipe: Path) -> None:
    with (recipe.parent / "chains.jsonl").open("a") as file:
        file.write("\n")


def edit_picture(recipe: Path) -> None:
    Image.new("RGB", (9, 9)).save(recipe.parent / "ledger.png")


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (edit_key, "hard_above: 0.0 -> 0.25"),
        (edit_seed, "seed: 0 -> 3"),
        (edit_data, "chains .*chains.jsonl has changed"),
        (edit_picture, "pictures of .*chains.jsonl have changed"),
    ],
)
def test_a_stage_that_is_done_names_what_has_changed(recipe: Path, edit: Callable[[Path], None], told: str) -> None:
    run_all(str(recipe))
    edit(recipe)
    with pytest.raises(
        InputError, match=rf"(?s)stage 'first' is done, .* changed since it began:\n  .*{told}"
    ) as caught:
        run_all(str(recipe))
    assert "--fresh" in str(caught.value)
    assert (recipe.parent / "runs" / "first" / DONE).is_file(), "nothing is removed without being asked for"


def test_fresh_runs_again_what_has_changed_and_what_was_made_of_it(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_all(str(recipe))
    write_rows(recipe.parent / "chains.jsonl", [chain(recipe.parent, 0)])
    done = CliRunner().invoke(app, ["label", "first", "--config", str(recipe), "--fresh"])
    assert done.exit_code == 0, done.output
    capsys.readouterr()
    with pytest.raises(InputError, match=r"chains first/chains.jsonl has changed: the stage 'first' was run again"):
        run_all(str(recipe))
    assert "first: done before" in capsys.readouterr().err
    run_all(str(recipe), fresh=True)
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["chains"], second["chains"]) == (1, 1)
    run_all(str(recipe))
    assert capsys.readouterr().err.count("done before") == 2


def test_the_check_of_a_recipe_tells_what_has_changed(recipe: Path) -> None:
    run_all(str(recipe))
    edit_key(recipe)
    told = CliRunner().invoke(app, ["check", str(recipe)])
    assert told.exit_code == 2
    assert "stage 'first': changed since it began (--fresh begins it again): hard_above: 0.0 -> 0.25" in told.stdout


def test_what_is_done_tells_its_keys_and_inputs(recipe: Path) -> None:
    run_all(str(recipe), overrides=["first.hard_above=0.5"])
    folder = recipe.parent / "runs" / "first"
    record = json.loads((folder / STAGE).read_text())
    assert record["keys"]["hard_above"] == 0.5
    assert record["overrides"] == ["first.hard_above=0.5"]
    assert json.loads((folder / DONE).read_text())["digest"] == record["digest"]
    assert [name.split()[0] for name in record["inputs"]] == ["chains", "pictures"]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"learning_rate": 1e-4}, "learning_rate: 1e-05 -> 0.0001"),
        ({"batch": 2}, "batch: 8 -> 2"),
        ({"data": (MixedChains(path="other.jsonl"),)}, r'data: \["/.*chains.jsonl"\] -> \["other.jsonl"\]'),
    ],
)
def test_a_stage_that_was_interrupted_takes_no_other_keys(sft: Recipe, keys: dict[str, Any], told: str) -> None:
    begun(sft)
    with pytest.raises(InputError, match=f"(?s)stage 'sft' was interrupted, .*{told}"):
        begun(sft, **keys)


def test_adapters_or_another_architecture_are_no_way_to_go_on(sft: Recipe, tmp_path: Path) -> None:
    where = begun(sft)
    changed = parse_recipe(SFT.format(folder=tmp_path) + "    lora: {rank: 4}\n")
    with pytest.raises(InputError, match=r'lora: not set -> {"rank": 4, '):
        begin(changed, changed.stages[0], where)
    (tmp_path / "base" / "config.json").write_text('{"model_type": "llava_next"}')
    with pytest.raises(InputError, match=r"model .*base has changed"):
        begun(sft)


def test_a_stage_that_has_kept_nothing_yet_takes_other_keys(sft: Recipe) -> None:
    where = begun(sft, interrupted=False)
    (where.folder / "metrics.jsonl").write_text('{"step": 10}\n')
    begun(sft, interrupted=False, learning_rate=1e-4)
    record = read_record(where.folder / STAGE)
    assert record is not None
    assert record.keys["learning_rate"] == 1e-4
    assert not (where.folder / "metrics.jsonl").exists(), "its lines were of other keys"


def test_keys_that_change_no_outcome_may_change_at_any_time(sft: Recipe) -> None:
    first = begun(sft)
    second = begun(sft, log_every=1, save_every=3, compile=True, gradient_checkpointing=True)
    assert first.digest == second.digest


def test_every_key_that_may_change_is_one_of_some_stage() -> None:
    from cos.training.config.recipe import EvaluateConfig, LabelConfig, RoundsConfig, SftConfig

    known = {
        key
        for kind in (SftConfig, LabelConfig, RoundsConfig, EvaluateConfig)
        for field, info in kind.model_fields.items()
        for key in (field, *getattr(digest_section(info.annotation), "model_fields", ()))
    }
    assert known >= digest.FREE


def digest_section(annotation: object) -> object:
    from typing import get_args

    return next((part for part in get_args(annotation) if hasattr(part, "model_fields")), annotation)


def test_a_key_that_a_later_version_adds_changes_nothing_until_it_is_set(sft: Recipe) -> None:
    where = begun(sft)
    path = where.folder / STAGE
    older = json.loads(path.read_text())
    del older["keys"]["weight_decay"]
    path.write_text(json.dumps(older))
    begun(sft)
    path.write_text(json.dumps(older))
    changed = parse_recipe(SFT.format(folder=sft.folder.parent) + "    weight_decay: 0.1\n")
    with pytest.raises(InputError, match=r"weight_decay: not set -> 0\.1"):
        begin(changed, changed.stages[0], where)


def test_files_that_were_not_touched_are_not_read_again(sft: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = sft.stages[0]
    before = record_of(sft, stage)

    def read(path: Path, most_bytes: int | None) -> str:
        raise AssertionError(path)

    monkeypatch.setattr(digest, "_content", read)
    assert record_of(sft, stage, before) == before


def test_a_file_that_was_copied_anew_is_no_change(sft: Recipe, tmp_path: Path) -> None:
    before = record_of(sft, sft.stages[0])
    data = tmp_path / "chains.jsonl"
    data.write_bytes(data.read_bytes())
    os.utime(data, ns=(1, 1))
    now = record_of(sft, sft.stages[0])
    assert now.digest == before.digest
    assert changes(before, now) == []


@pytest.mark.parametrize("line", ['{"image": "a\\u0000b.png"}', '{"image": "\\ud800.png"}', "[" * 100_000])
def test_lines_that_name_no_possible_picture_are_left_to_who_reads_the_rows(line: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(f"{line}\n")
    found = digest.input_of(digest.pictures_of(tmp_path / "rows.jsonl"), None, digest.PICTURE_BYTES)
    assert len(found.content) == 64


def test_what_a_stage_was_made_of_may_go_once_it_is_done(sft: Recipe, tmp_path: Path) -> None:
    where = begun(sft)
    (where.folder / DONE).write_text("{}")
    (tmp_path / "base" / "config.json").unlink()
    (tmp_path / "base" / "model.safetensors").unlink()
    (tmp_path / "base").rmdir()
    begun(sft)
    record = read_record(where.folder / STAGE)
    assert record is not None
    assert any(name.startswith("model ") for name in record.inputs), "it is still told what the stage was made of"


def test_nothing_is_begun_again_under_a_run_that_goes_on(sft: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    where = begun(sft)
    take_lock(where.folder)
    with pytest.raises(InputError, match="is in use by process"):
        begin(sft, sft.stages[0], where, fresh="always")
    assert (where.folder / "checkpoint-10").is_dir()
