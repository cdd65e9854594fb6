"""Batches of rows of like length: less is padded, every row is taught once an epoch, and ranks and resumes agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cos.search.errors import InputError
from cos.training.config.recipe import DpoConfig, PrmConfig, SftConfig
from cos.training.data.batches import ByLength
from cos.training.learning.encode import Collator
from cos.training.learning.trainer import StageTrainer
from cos.training.runs.metrics import read_metrics
from cos.training.stages.dpo import run_dpo
from cos.training.stages.prm_training import run_prm
from cos.training.stages.sft import run_sft
from tests.training.learning.test_accumulation import data
from tests.training.stages.test_smoke import Stopped, stopping_at
from tests.training.tiny_models import build
from tests.training.training_support import context

__all__ = ["data"]
KEYS: dict[str, Any] = {"batch": 2, "log_every": 1, "save_every": 1, "precision": "fp32", "group_by_length": True}
LENGTHS = [7 * (index % 13) + index % 5 for index in range(96)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("internvl"), "internvl")


def padded(order: list[int], batch: int) -> int:
    """Tokens that an epoch's batches are padded with."""
    batches = [[LENGTHS[index] for index in order[start : start + batch]] for start in range(0, len(order), batch)]
    return sum(max(one) * len(one) - sum(one) for one in batches)


def test_an_epoch_has_every_row_once_in_an_order_of_its_own_with_less_padding() -> None:
    sampler = ByLength(LENGTHS, 4, seed=3)
    epochs: list[list[int]] = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        epochs.append([*sampler])
    assert epochs[0] == epochs[2] != epochs[1]
    assert all(sorted(epoch) == [*range(96)] for epoch in epochs)
    assert padded(epochs[0], 4) < 0.5 * padded([*range(96)], 4)


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(entry["step"], entry["loss"]) for entry in read_metrics(folder) if "loss" in entry]


def test_a_run_that_is_stopped_in_its_second_epoch_goes_on_with_the_same_batches(
    model: Path, data: Path, tmp_path: Path
) -> None:
    given = {"model": str(model), "data": [str(data / "chains.jsonl")], "epochs": 2, **KEYS}
    config = SftConfig.model_validate(given)
    seen: dict[str, list[int]] = {"whole": [], "broken": []}

    def noting(name: str) -> pytest.MonkeyPatch:
        patch = pytest.MonkeyPatch()
        plain = Collator.__call__

        def collate(self: Collator, samples: Any) -> Any:
            made = plain(self, samples)
            seen[name] += [made["input_ids"].shape[1]] * (len(samples) == 2)
            return made

        patch.setattr(Collator, "__call__", collate)
        return patch

    for name in ("whole", "broken"):
        where = context(tmp_path, name)
        patch = noting(name)
        if name == "broken":
            with pytest.MonkeyPatch.context() as stopping:
                stopping.setattr(StageTrainer, "training_step", stopping_at(6))
                with pytest.raises(Stopped):
                    run_sft(config, where)
        run_sft(config, where)
        patch.undo()
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 8
    assert seen["whole"][:4] != seen["whole"][4:], "an epoch has an order of its own"


@pytest.mark.parametrize("stage", ["prm", "dpo"])
def test_every_stage_of_rows_can_be_told(stage: str, model: Path, data: Path, tmp_path: Path) -> None:
    where = context(tmp_path, stage)
    if stage == "prm":
        given = {"model": str(model), "chains": [str(data / "chains.jsonl")], "steps": 2, **KEYS}
        run_prm(PrmConfig.model_validate(given), where)
    else:
        given = {"policy": str(model), "pairs": [str(data / "pairs.jsonl")], "steps": 2, **KEYS}
        run_dpo(DpoConfig.model_validate(given), where)
    assert len(losses(where.folder)) == 2


def test_ledgers_have_no_rows_to_group(model: Path, tmp_path: Path) -> None:
    given = {"model": str(model), "ledger": {"digits": "policy"}, "steps": 2, **KEYS}
    with pytest.raises(InputError, match="no rows whose lengths differ; leave out group_by_length"):
        run_sft(SftConfig.model_validate(given), context(tmp_path, "sft"))
