"""A run that is told to stop, by signals of every kind and way."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from cos.evaluation.failures import StageError
from cos.training.learning.trainer import StageTrainer, newest_checkpoint
from tests.training.stages.test_smoke import run
from tests.training.tiny_models import build
from tests.training.training_support import context, write_chains


def test_a_signal_to_every_process_of_a_run_leaves_its_readers_to_the_end_and_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = StageTrainer.training_step
    before = multiprocessing.active_children()

    def training_step(
        self: StageTrainer, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        if self.state.global_step == 1:
            readers = [one for one in multiprocessing.active_children() if one not in before]
            assert len(readers) == 2
            for process in (*(reader.pid for reader in readers), os.getpid()):
                os.kill(process or 0, signal.SIGTERM)
            for reader in readers:
                reader.join(0.5)
                assert reader.is_alive()
        return plain(self, model, inputs, num_items_in_batch)

    monkeypatch.setattr(StageTrainer, "training_step", training_step)
    model, where = build(tmp_path / "model", "internvl"), context(tmp_path, "sft")
    write_chains(tmp_path / "chains.jsonl", 24)
    with pytest.raises(StageError, match="'sft' was told to stop: a checkpoint of step 2 of 9 is saved, and the same"):
        run("sft", model, tmp_path, where, steps=9, workers=2)
    assert newest_checkpoint(where.folder) == where.folder / "checkpoint-2"
    monkeypatch.undo()
    run("sft", model, tmp_path, where, steps=9, workers=2)
    assert where.is_done
