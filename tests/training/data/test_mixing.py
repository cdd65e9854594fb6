"""Files of rows that are told more about than their path, and mixed by weights."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from cos.search.errors import InputError
from cos.training.cli import app
from cos.training.config.check import check_recipe
from cos.training.config.recipe import DpoConfig, PrmConfig, SftConfig
from cos.training.config.recipe_file import parse_recipe
from cos.training.data.mixing import interleaved
from cos.training.data.row_data import RowData
from cos.training.data.rows import ChainRow, read_rows, write_rows
from cos.training.runs.digest import changes, record_of
from cos.training.runs.folder import StageContext
from cos.training.stages.dpo import run_dpo
from cos.training.stages.prm_training import run_prm
from cos.training.stages.sft import run_sft
from tests.training.stages.test_smoke import KEYS, Stopped, stopping_at
from tests.training.tiny_models import build
from tests.training.training_support import context, differing, write_chains, write_pairs


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("model"), "internvl")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Six chains and pairs, and two others."""
    found: dict[str, str] = {}
    for name, count in (("many", 6), ("few", 2)):
        folder = tmp_path_factory.mktemp(name)
        found[name] = str(write_chains(folder / "chains.jsonl", count))
        found[f"{name} pairs"] = str(write_pairs(folder / "pairs.jsonl", count))
    return found


def weighed(files: dict[str, str], *, of: str = "", many: float = 1, few: float = 3) -> list[dict[str, Any]]:
    return [{"path": files[f"many{of}"], "weight": many}, {"path": files[f"few{of}"], "weight": few}]


def train(stage: str, checkpoint: Path, where: StageContext, **keys: Any) -> None:
    """One of the stages that train, on the rows that the keys name."""
    given = {**KEYS, "policy" if stage == "dpo" else "model": str(checkpoint), **keys}
    match stage:
        case "sft":
            run_sft(SftConfig.model_validate(given), where)
        case "prm":
            run_prm(PrmConfig.model_validate(given), where)
        case _:
            run_dpo(DpoConfig.model_validate(given), where)


def outcome(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "done.json").read_text())["outcome"]


def test_rows_come_as_often_as_the_weights_say_each_file_from_its_beginning_again() -> None:
    parts = [list(range(1000)), list(range(1000, 1010))]
    drawn = interleaved(parts, [3, 1], "all_exhausted", seed=5)
    counts = Counter(drawn)
    assert set(counts) == {*parts[0], *parts[1]}
    assert max(counts[row] for row in parts[0]) == 1
    assert sum(counts[row] for row in parts[1]) / len(drawn) == pytest.approx(0.25, abs=0.03)
    assert [row for row in drawn if row >= 1000][:12] == [*parts[1], 1000, 1001]
    assert drawn == interleaved(parts, [0.75, 0.25], "all_exhausted", seed=5)
    assert drawn != interleaved(parts, [3, 1], "all_exhausted", seed=6)
    assert len(interleaved(parts, [3, 1], "first_exhausted", seed=5)) < 100


@pytest.mark.parametrize("stage", ["sft", "prm", "dpo"])
def test_a_stage_trains_on_the_mix_and_tells_what_an_epoch_has_of_each_file(
    stage: str, checkpoint: Path, files: dict[str, str], tmp_path: Path
) -> None:
    where = context(tmp_path, stage)
    key = {"sft": "data", "prm": "chains", "dpo": "pairs"}[stage]
    of = " pairs" if stage == "dpo" else ""
    train(stage, checkpoint, where, **{key: weighed(files, of=of), "steps": None, "epochs": 1, "batch": 4})
    many, few = outcome(where.folder)["sources"]
    assert (many["path"], many["rows"], many["weight"]) == (files[f"many{of}"], 6, 1.0)
    assert (few["path"], few["rows"], few["weight"]) == (files[f"few{of}"], 2, 3.0)
    assert 6 <= many["in_epoch"] < few["in_epoch"]
    assert outcome(where.folder)["steps"] == -(-(many["in_epoch"] + few["in_epoch"]) // 4)
    assert outcome(where.folder)["rows"] == 8


def test_weights_count_chains_that_have_the_labels_that_are_taught(
    checkpoint: Path, files: dict[str, str], tmp_path: Path
) -> None:
    rows = list(read_rows(files["few"], ChainRow))
    bare = ChainRow(id="bare", problem=rows[0].problem, steps=rows[0].steps, answer="5")
    write_rows(tmp_path / "some.jsonl", [bare, rows[1]])
    where = context(tmp_path, "prm")
    chains = [{"path": files["many"], "weight": 1}, {"path": str(tmp_path / "some.jsonl"), "weight": 1}]
    train("prm", checkpoint, where, chains=chains, stopping_strategy="first_exhausted")
    assert [one["rows"] for one in outcome(where.folder)["sources"]] == [6, 1]
    assert outcome(where.folder)["unlabelled"] == 1
    write_rows(tmp_path / "none.jsonl", [bare])
    chains[1] = {"path": str(tmp_path / "none.jsonl"), "weight": 1}
    with pytest.raises(InputError, match=r"none\.jsonl has a weight, and no row of it can be used"):
        train("prm", checkpoint, context(tmp_path, "none"), chains=chains)


def test_a_resumed_run_on_a_mix_equals_the_uninterrupted_one(
    checkpoint: Path, files: dict[str, str], tmp_path: Path
) -> None:
    whole, broken = context(tmp_path, "whole"), context(tmp_path, "broken")
    keys: dict[str, Any] = {"data": weighed(files), "steps": 5, "save_every": 2}
    train("sft", checkpoint, whole, **keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cos.training.learning.trainer.StageTrainer.training_step", stopping_at(3))
        with pytest.raises(Stopped):
            train("sft", checkpoint, broken, **keys)
    train("sft", checkpoint, broken, **keys)
    assert differing(whole.folder / "model", broken.folder / "model") == []


REFUSED: dict[str, tuple[type[Any], dict[str, Any], str]] = {
    "a weight for one of two": (SftConfig, {"data": ["a", {"path": "b", "weight": 1}]}, "data: a has no weight"),
    "a weight of nothing": (SftConfig, {"data": [{"path": "a", "weight": 0}]}, "greater than 0"),
    "no path": (SftConfig, {"data": [{"weight": 1}]}, "Field required"),
    "another key": (SftConfig, {"data": [{"path": "a", "wieght": 1}]}, "Extra inputs"),
    "pairs in part": (DpoConfig, {"pairs": ["a", {"path": "b", "weight": 1}]}, "pairs: a has no weight"),
    "beside a ledger": (
        PrmConfig,
        {"chains": [{"path": "a", "weight": 1}], "ledger": {"digits": "prm"}},
        "weights are for files alone",
    ),
    "held-out rows": (
        SftConfig,
        {"data": ["a"], "validation": {"data": [{"path": "a", "weight": 1}]}},
        "Extra inputs",
    ),
}


@pytest.mark.parametrize(("kind", "keys", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_mixed_is_refused(kind: type[Any], keys: dict[str, Any], said: str) -> None:
    model = {"policy": "x"} if kind is DpoConfig else {"model": "x"}
    with pytest.raises(ValidationError, match=said):
        kind.model_validate({**model, "steps": 1, **keys})


def test_a_file_may_name_a_folder_of_pictures_of_its_own(
    checkpoint: Path, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "elsewhere" / "chains.jsonl"
    moved.parent.mkdir()
    moved.write_text(Path(files["few"]).read_text())
    shown: list[str | None] = []
    plain = RowData.__init__

    def noting(self: RowData, rows: Any, write: Any) -> None:
        shown.extend(row.problem.image for row in rows)
        plain(self, rows, write)

    monkeypatch.setattr(RowData, "__init__", noting)
    own = {"path": str(moved), "images": str(Path(files["few"]).parent)}
    train("sft", checkpoint, context(tmp_path, "sft"), data=[files["many"], own], steps=1)
    assert len([image for image in shown if image and image.startswith(own["images"])]) == 2


def recipe_text(checkpoint: Path, files: dict[str, str], folder: Path, weight: float) -> str:
    mixed = json.dumps(weighed(files, few=weight))
    held = write_chains(folder / "held" / "chains.jsonl", 2)
    write_rows(
        held,
        [replace(row, problem=replace(row.problem, question="Held out?")) for row in list(read_rows(held, ChainRow))],
    )
    return (
        f"name: mix\nruns: {folder}/runs\nstages:\n"
        f"  - {{stage: sft, model: {checkpoint}, data: {mixed}, epochs: 1, batch: 2,\n"
        f"     validation: {{data: [{held}], every: 1}}}}\n"
    )


def test_check_tells_the_mix_and_tries_a_step_of_it(checkpoint: Path, files: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "held").mkdir()
    path = tmp_path / "mix.yaml"
    path.write_text(recipe_text(checkpoint, files, tmp_path, weight=3))
    shown = CliRunner().invoke(app, ["check", str(path), "--step"], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    assert f"rows of the 6 of {files['many']} (weight 1)" in shown.output
    assert f"rows of the 2 of {files['few']} (weight 3)" in shown.output
    assert "one step" in shown.output
    report = check_recipe(parse_recipe(path.read_text(), str(path)))
    assert [one.rows for one in report.stages[0].sources] == [6, 2]


def test_a_changed_weight_is_told_and_a_path_alone_is_kept_as_it_is_written(
    checkpoint: Path, files: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "held").mkdir()
    recipes = [parse_recipe(recipe_text(checkpoint, files, tmp_path, weight), "mix.yaml") for weight in (3, 4)]
    before, now = (record_of(recipe, recipe.stages[0]) for recipe in recipes)
    (told,) = changes(before, now)
    assert told.startswith("data: ")
    assert '"weight": 4.0' in told
    assert SftConfig.model_validate({"model": "x", "data": ["a.jsonl"], "steps": 1}).model_dump()["data"] == (
        "a.jsonl",
    )
