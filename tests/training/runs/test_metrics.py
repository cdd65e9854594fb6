"""metrics.jsonl: every step once, whatever kills a run."""

import json
from pathlib import Path
from typing import Any

import pytest

from cos.search.errors import InputError
from cos.training.config.recipe import SftConfig
from cos.training.runs.metrics import METRICS, add_metrics, cut_metrics, read_metrics
from cos.training.runs.plot import plot_metrics
from cos.training.stages.sft import run_sft
from tests.training.stages.test_smoke import Stopped, stopping_at
from tests.training.tiny_models import build
from tests.training.training_support import context, write_chains


def test_a_torn_line_is_dropped_and_nothing_is_glued_to_it(tmp_path: Path) -> None:
    for step in (1, 2):
        add_metrics(tmp_path, step, {"loss": 1.5})
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 3, "lo')
    cut_metrics(tmp_path, 2)
    add_metrics(tmp_path, 3, {"loss": 1.25})
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.5), (2, 1.5), (3, 1.25)]


def test_lines_behind_the_checkpoint_are_cut_and_a_missing_file_is_none(tmp_path: Path) -> None:
    cut_metrics(tmp_path, 0)
    assert not (tmp_path / METRICS).exists()
    assert read_metrics(tmp_path) == []
    for step in range(1, 6):
        add_metrics(tmp_path, step, {"loss": float(step)})
    cut_metrics(tmp_path, 3)
    assert [entry["step"] for entry in read_metrics(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize(("stopped_at", "save_every"), [(3, 2), (1, 100)])
def test_a_run_that_goes_on_logs_every_step_once(stopped_at: int, save_every: int, tmp_path: Path) -> None:
    model = build(tmp_path / "model", "internvl")
    chains = write_chains(tmp_path / "chains.jsonl", 4)
    keys: dict[str, Any] = {"steps": 4, "batch": 2, "log_every": 1, "save_every": save_every, "precision": "fp32"}
    config = SftConfig.model_validate({"model": str(model), "data": [str(chains)], **keys})
    where = context(tmp_path, "sft")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cos.training.learning.trainer.StageTrainer.training_step", stopping_at(stopped_at))
        with pytest.raises(Stopped):
            run_sft(config, where)
    with (where.folder / METRICS).open("a") as file:
        file.write('{"step": 9, "loss": 1')
    run_sft(config, where)
    lines = [json.loads(line) for line in (where.folder / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]


def test_a_folder_without_metrics_names_those_below_that_have_some(tmp_path: Path) -> None:
    (tmp_path / "rounds" / "round-1" / "dpo").mkdir(parents=True)
    add_metrics(tmp_path / "rounds" / "round-1" / "dpo", 1, {"loss": 1.0})
    with pytest.raises(InputError, match=r"rounds: there is no metrics.jsonl .* give one of .*/rounds/round-1/dpo$"):
        plot_metrics(tmp_path / "rounds", tmp_path / "metrics.png")
