"""Who else is told what metrics.jsonl is told, and packages that are asked for and not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cos.search.errors import InputError
from cos.training.config.check import check_recipe
from cos.training.config.packages import check_packages, missing_packages
from cos.training.config.recipe import Recipe, SftConfig
from cos.training.data.rows import ChainRow, read_rows, write_rows
from cos.training.runs.metrics import read_metrics
from cos.training.stages.sft import run_sft
from tests.training.stages.test_smoke import Stopped, stopping_at
from tests.training.tiny_models import build
from tests.training.training_support import context, write_chains


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_loss_validation_loss_and_rate_of_every_step(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    rows = list(read_rows(write_chains(tmp_path / "chains.jsonl", 6), ChainRow))
    write_rows(tmp_path / "chains.jsonl", rows[:4])
    write_rows(tmp_path / "held-out.jsonl", rows[4:])
    keys: dict[str, Any] = {
        "steps": 3,
        "batch": 2,
        "log_every": 1,
        "save_every": 1,
        "precision": "fp32",
        "report_to": ["tensorboard"],
    }
    keys["validation"] = {"data": [str(tmp_path / "held-out.jsonl")], "every": 2}
    where = context(tmp_path, "sft")
    model = str(build(tmp_path / "model", "internvl"))
    config = SftConfig.model_validate({"model": model, "data": [str(tmp_path / "chains.jsonl")], **keys})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cos.training.learning.trainer.StageTrainer.training_step", stopping_at(2))
        with pytest.raises(Stopped):
            run_sft(config, where)
    run_sft(config, where)
    (folder,) = {file.parent for file in where.folder.rglob("events.out.tfevents.*")}
    assert folder == where.folder / "tensorboard"
    found = events.EventAccumulator(str(folder))
    found.Reload()
    for ours, theirs in (
        ("loss", "train/loss"),
        ("learning_rate", "train/learning_rate"),
        ("validation_loss", "train/validation_loss"),
    ):
        told = {entry["step"]: entry[ours] for entry in read_metrics(where.folder) if ours in entry}
        events_of = found.Scalars(theirs)
        assert {event.step: event.value for event in events_of} == pytest.approx(told, rel=1e-6)
        assert len(events_of) == len(told), "every step once, also after a stop"
    assert len(told) == 2


def test_a_package_that_is_not_installed_is_told_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nowhere(name: str) -> None:
        del name

    monkeypatch.setattr("cos.training.config.packages.find_spec", nowhere)
    keys = {"steps": 1, "report_to": ["wandb"], "lora": {"quantize": "nf4"}}
    told = [
        "report_to: wandb is not installed; pip install wandb, or leave it out",
        "lora.quantize: bitsandbytes is not installed; pip install bitsandbytes, or leave it out",
    ]
    stage = {"stage": "sft", "model": str(tmp_path), "data": ["rows.jsonl"], **keys}
    rounds = {"stage": "rounds", "policy": "sft/model", "rollout": {"problems": {"data": ["rows.jsonl"]}}}
    given = [stage, {**rounds, "pairs": {}, "dpo": keys}]
    recipe = Recipe.model_validate({"name": "mine", "runs": str(tmp_path / "runs"), "stages": given})
    for one in recipe.stages:
        assert [said for said, _ in missing_packages(one)] == told
    assert set(told) <= set(check_recipe(recipe).stages[0].faults)
    with pytest.raises(InputError, match=told[0]):
        check_packages(recipe.stages)
