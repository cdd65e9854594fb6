"""Run folders as people have them: with files of their own, read-only, with damaged marks, with data that change."""

import json
from pathlib import Path

import pytest

from cos.search.errors import InputError
from cos.training.cli import RunOptions, run_stage
from cos.training.config.keys import TrainingKeys
from cos.training.config.recipe import Recipe
from cos.training.config.recipe_file import parse_recipe
from cos.training.config.references import WRITES
from cos.training.runs import digest
from cos.training.stages import sft
from tests.training.tiny_models import build
from tests.training.training_support import write_chains

FRESH = RunOptions(fresh="always")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("folders") / "base", "internvl")


@pytest.fixture
def recipe(base: Path, tmp_path: Path) -> Recipe:
    write_chains(tmp_path / "rows.jsonl", 2)
    keys = f"stage: sft, model: {base}, data: [{tmp_path}/rows.jsonl], steps: 1, batch: 2"
    return parse_recipe(f"name: own\nruns: {tmp_path}/runs\nstages:\n  - {{{keys}}}\n")


def test_fresh_leaves_files_that_no_stage_wrote(recipe: Recipe) -> None:
    run_stage(recipe, recipe.stages[0])
    folder = recipe.folder / "sft"
    (folder / "notes.md").write_text("mine")
    (folder / "mine").mkdir()
    (folder / "skipped.txt").write_text("of an earlier run")
    assert {entry.name for entry in folder.iterdir() if not digest.is_output(entry.name)} == {"notes.md", "mine"}
    run_stage(recipe, recipe.stages[0], FRESH)
    assert (folder / "notes.md").read_text() == "mine"
    assert (folder / "mine").is_dir()
    assert not (folder / "skipped.txt").exists()


def test_all_that_stages_leave_for_others_is_known_as_theirs() -> None:
    assert all(digest.is_output(name) for names in WRITES.values() for name in names)


@pytest.mark.parametrize("how", [RunOptions(), FRESH])
def test_a_folder_of_ones_own_is_not_taken_for_a_stages(recipe: Recipe, how: RunOptions) -> None:
    (recipe.folder / "sft").mkdir(parents=True)
    (recipe.folder / "sft" / "gold.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"holds what no stage writes, such as 'gold.jsonl'; give the stage another"):
        run_stage(recipe, recipe.stages[0], how)
    assert (recipe.folder / "sft" / "gold.jsonl").read_text() == "{}"


def test_data_that_change_while_a_stage_runs_leave_it_undone(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = sft.load_base

    def slowly(folder: str, keys: TrainingKeys) -> object:
        write_chains(tmp_path / "rows.jsonl", 4)
        return load(folder, keys)

    monkeypatch.setattr(sft, "load_base", slowly)
    with pytest.raises(InputError, match=r"while it ran, its inputs have changed:\n  data .*rows.jsonl has changed"):
        run_stage(recipe, recipe.stages[0])
    assert not (recipe.folder / "sft" / "done.json").exists()
    with pytest.raises(InputError, match="--fresh"):
        run_stage(recipe, recipe.stages[0])


@pytest.mark.parametrize("text", ["{", "[]", '{"outcome": 3, "seconds": 1}', '{"outcome": {}}'])
def test_an_end_that_cannot_be_read_is_told_by_its_file(recipe: Recipe, text: str) -> None:
    (recipe.folder / "sft").mkdir(parents=True)
    (recipe.folder / "sft" / "done.json").write_text(text)
    with pytest.raises(InputError, match=r"done\.json cannot be read .* --fresh"):
        run_stage(recipe, recipe.stages[0])


def test_fresh_helps_where_the_record_of_a_stage_is_damaged(recipe: Recipe) -> None:
    (recipe.folder / "sft").mkdir(parents=True)
    (recipe.folder / "sft" / "stage.json").write_text("{")
    with pytest.raises(InputError, match=r"stage\.json cannot be read .* --fresh"):
        run_stage(recipe, recipe.stages[0])
    run_stage(recipe, recipe.stages[0], FRESH)
    assert json.loads((recipe.folder / "sft" / "stage.json").read_text())["stage"] == "sft"


def test_a_folder_that_nobody_can_write_to_serves_what_is_done_and_refuses_the_rest(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise OSError(30, "Read-only file system", str(folder))

    run_stage(recipe, recipe.stages[0])
    monkeypatch.setattr(digest, "take_lock", refuse)
    run_stage(recipe, recipe.stages[0], RunOptions(overrides=("seed=0",)))
    with pytest.raises(InputError, match="cannot be written to: Read-only"):
        run_stage(recipe, recipe.stages[0], FRESH)
    assert (recipe.folder / "sft" / "done.json").is_file()
