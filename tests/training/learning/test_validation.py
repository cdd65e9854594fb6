"""Rows held out of training: their loss is exact, the best weights are what is written, and training ends in time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cos.search.errors import InputError
from cos.training.config.recipe import DpoConfig, PrmConfig, SftConfig
from cos.training.data.row_data import imitated
from cos.training.data.rows import ChainRow, PairRow, read_rows, write_rows
from cos.training.learning.encode import Collator, TurnEncoder, load_checkpoint
from cos.training.learning.losses import SftLoss
from cos.training.learning.trainer import StageTrainer
from cos.training.runs.metrics import read_metrics
from cos.training.runs.plot import plot_metrics
from cos.training.stages.dpo import run_dpo
from cos.training.stages.prm_training import run_prm
from cos.training.stages.sft import run_sft
from tests.training.stages.test_smoke import Stopped, stopping_at
from tests.training.tiny_models import build
from tests.training.training_support import context, differing, write_chains, write_pairs

ROWS = 7
HELD = 3
KEYS: dict[str, Any] = {"batch": 2, "learning_rate": 1e-2, "log_every": 1, "precision": "fp32", "schedule": "constant"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """chains.jsonl and pairs.jsonl, and of each the last rows by themselves in held-*.jsonl."""
    folder = tmp_path_factory.mktemp("rows")
    chains = list(read_rows(write_chains(folder / "chains.jsonl", ROWS), ChainRow))
    write_rows(folder / "chains.jsonl", chains[:-HELD])
    write_rows(folder / "held-chains.jsonl", chains[-HELD:])
    pairs = list(read_rows(write_pairs(folder / "pairs.jsonl", ROWS), PairRow))
    write_rows(folder / "pairs.jsonl", pairs[:-HELD])
    write_rows(folder / "held-pairs.jsonl", pairs[-HELD:])
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("internvl"), "internvl")


def run(stage: str, checkpoint: Path, data: Path, where: Any, held: str = "held-", **keys: Any) -> None:
    rows = "pairs" if stage == "dpo" else "chains"
    validation = {"data": [str(data / f"{held}{rows}.jsonl")], **keys.pop("validation", {})}
    given = {**KEYS, "validation": validation, **keys}
    chains, model = str(data / f"{rows}.jsonl"), str(checkpoint)
    match stage:
        case "sft":
            run_sft(SftConfig.model_validate({"model": model, "data": [chains], **given}), where)
        case "prm":
            run_prm(PrmConfig.model_validate({"model": model, "chains": [chains], **given}), where)
        case _:
            run_dpo(DpoConfig.model_validate({"policy": model, "pairs": [chains], **given}), where)


def measured(folder: Path) -> list[tuple[int, float]]:
    found = read_metrics(folder)
    return [(entry["step"], entry["validation_loss"]) for entry in found if "validation_loss" in entry]


@pytest.mark.parametrize("stage", ["sft", "prm", "dpo"])
def test_the_best_weights_by_held_out_rows_are_what_a_stage_writes(
    stage: str, checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    where = context(tmp_path, stage)
    run(stage, checkpoint, data, where, steps=5, learning_rate=0.3, validation={"every": 2})
    found = measured(where.folder)
    assert [step for step, _ in found] == [2, 4, 5]
    told = json.loads((where.folder / "done.json").read_text())["outcome"]
    best = min(found, key=lambda one: one[1])
    assert (told["best_step"], told["validation_loss"]) == best
    kept = load_file(where.folder / "best" / "model.safetensors")
    written = load_file(where.folder / "model" / "model.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in written.items())


def test_the_loss_is_over_all_targets_of_the_held_out_rows(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    where = context(tmp_path, "sft")
    run("sft", checkpoint, data, where, steps=1, validation={"every": 1})
    model, processor = load_checkpoint(where.folder / "model")
    rows = list(read_rows(data / "held-chains.jsonl", ChainRow))
    samples = imitated(rows, TurnEncoder(processor.tokenizer))
    with torch.no_grad():
        whole = SftLoss()(model.eval(), Collator(processor)([samples[index] for index in range(HELD)]))[0].item()
    assert measured(where.folder)[0][1] == pytest.approx(whole, rel=1e-4)


def test_training_ends_when_the_loss_falls_no_more(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    falling = iter((3.0, 2.0, 2.5, 2.25, 1.0))

    def fallen(_: StageTrainer) -> float:
        return next(falling)

    monkeypatch.setattr(StageTrainer, "_held_out_loss", fallen)
    where = context(tmp_path, "sft")
    run("sft", checkpoint, data, where, steps=40, validation={"every": 1, "patience": 2})
    assert [loss for _, loss in measured(where.folder)] == [3.0, 2.0, 2.5, 2.25]
    assert where.is_done
    assert json.loads((where.folder / "done.json").read_text())["outcome"]["best_step"] == 2


def test_measuring_changes_nothing_that_is_learnt_and_a_resumed_run_finds_the_same(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"steps": 5, "save_every": 2, "validation": {"every": 1}}
    whole, broken, plain = (context(tmp_path, name) for name in ("whole", "broken", "plain"))
    run("sft", checkpoint, data, whole, **keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageTrainer, "training_step", stopping_at(3))
        with pytest.raises(Stopped):
            run("sft", checkpoint, data, broken, **keys)
    run("sft", checkpoint, data, broken, **keys)
    assert measured(whole.folder) == measured(broken.folder)
    assert differing(whole.folder / "model", broken.folder / "model") == []
    run("sft", checkpoint, data, plain, steps=5, validation={"every": 100})
    losses = [[e["loss"] for e in read_metrics(one.folder) if "loss" in e] for one in (whole, plain)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("stage", ["sft", "prm", "dpo"])
def test_rows_that_are_trained_on_cannot_be_held_out(stage: str, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="4 of 4 held-out questions are trained on, too"):
        run(stage, checkpoint, data, context(tmp_path, stage), held="", steps=1)


def test_a_reporter_that_is_not_installed_is_named(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_none(_: str) -> None:
        return None

    monkeypatch.setattr("cos.training.config.packages.find_spec", find_none)
    with pytest.raises(InputError, match="tensorboard is not installed"):
        run("sft", checkpoint, data, context(tmp_path, "sft"), steps=1, report_to=["tensorboard"])


def test_metrics_are_drawn_and_a_folder_without_any_is_refused(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    where = context(tmp_path, "sft")
    run("sft", checkpoint, data, where, steps=2, validation={"every": 1})
    picture = plot_metrics(where.folder, tmp_path / "metrics.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"no metrics.jsonl with a number"):
        plot_metrics(tmp_path, tmp_path / "none.png")
