"""TensorBoard, with the values of metrics.jsonl: one curve, also where a run was stopped and goes on."""

from __future__ import annotations

from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations.integration_utils import TensorBoardCallback

EVENTS = "tensorboard"
"""The folder of its event files, in the stage's. (transformers' own would be another one for every start.)"""


def tensorboard(folder: Path, step: int) -> TrainerCallback:
    """Writes events into the stage's ``folder``. What was logged of steps behind ``step``, where the run goes on
    from, is logged anew."""
    from torch.utils.tensorboard import SummaryWriter

    return TensorBoardCallback(SummaryWriter(log_dir=str(folder / EVENTS), purge_step=step + 1))
