"""How the learning rate rises and falls: transformers' schedules behind a warm-up whose first step already learns."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from cos.training.config.keys import TrainingKeys


def warmup_steps(keys: TrainingKeys, steps: int) -> int:
    """Steps below the peak: the warm-up's share of all, rounded up, but never all of them."""
    return min(math.ceil(keys.warmup_share * steps), steps - 1)


def schedule(keys: TrainingKeys, optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
    """The rates of ``steps`` steps, as shares of each group's peak.

    With w steps of warm-up they are 1 / (w + 1), 2 / (w + 1), ... and 1 for the first one behind. (transformers' own
    begin at 0, where a step costs as much and teaches nothing.)
    """
    rising = warmup_steps(keys, steps)
    kind, more = _names(keys)
    # The shape alone is wanted: a scheduler sets the rates of the optimiser that it is made for.
    unused = torch.optim.SGD([torch.zeros(1)], lr=keys.learning_rate)
    made: Any = get_scheduler(kind, unused, rising, steps, more)
    falling = made.lr_lambdas[0]

    def share(step: int) -> float:
        return (step + 1) / (rising + 1) if step < rising else falling(step)

    return LambdaLR(optimizer, share)


def _names(keys: TrainingKeys) -> tuple[str, dict[str, Any]]:
    """The library's name of a schedule, and its arguments."""
    match keys.schedule:
        case "cosine":
            return "cosine_with_min_lr", {"min_lr_rate": keys.min_rate_share}
        case "linear" if keys.min_rate_share < 1:
            return "polynomial", {"power": 1.0, "lr_end": keys.learning_rate * keys.min_rate_share}
        case _:
            return "constant_with_warmup", {}
