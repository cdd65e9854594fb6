"""Processes that read ahead change nothing, and what stops them is told as if they were not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from cos.evaluation.failures import StageError
from cos.search.errors import InputError
from cos.training.config.recipe import SftConfig
from cos.training.data.named_data import NamedData, collate_named, read
from cos.training.runs.metrics import read_metrics
from cos.training.stages.sft import run_sft
from tests.training.tiny_models import build
from tests.training.training_support import context, write_chains


class Rows(Dataset[int]):
    """Rows of which the fourth cannot be read."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> int:
        if index == 3:
            raise self._error
        return index


def loaded(data: Dataset[int], collate: Any, workers: int) -> list[Any]:
    named = collate_named(collate, "sft")
    loader: DataLoader[Any] = DataLoader(NamedData(data, "sft"), batch_size=2, collate_fn=named, num_workers=workers)
    return list(read(loader))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_the_same_error_as_without(workers: int) -> None:
    with pytest.raises(InputError, match=r"^stage 'sft': gone$") as caught:
        loaded(Rows(InputError("gone", "image")), sum, workers)
    assert caught.value.param == "image"
    with pytest.raises(StageError, match=r"^stage 'sft': StopIteration$"):
        loaded(Rows(StopIteration()), sum, workers)

    def collate(samples: list[int]) -> int:
        raise ValueError(f"{len(samples)} at once")

    with pytest.raises(StageError, match=r"^stage 'sft': .*ValueError: 2 at once$"):
        loaded(Rows(InputError("gone", "image")), collate, workers)


def test_what_is_learnt_does_not_hang_on_workers(tmp_path: Path) -> None:
    model, chains = build(tmp_path / "model", "internvl"), write_chains(tmp_path / "chains.jsonl", 6)
    found: list[list[float]] = []
    for workers in (0, 2):
        where = context(tmp_path, f"workers-{workers}")
        keys = {"steps": 4, "batch": 2, "log_every": 1, "precision": "fp32", "workers": workers}
        run_sft(SftConfig.model_validate({"model": str(model), "data": [str(chains)], **keys}), where)
        found.append([entry["loss"] for entry in read_metrics(where.folder) if "loss" in entry])
    assert len(found[0]) == 4
    assert found[0] == found[1]
