"""A model and the heads beside it as one module, so that what holds for a model's gradients holds for the heads', too:
they are averaged over ranks, and forgotten after every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

LossFn = Callable[[nn.Module, Mapping[str, Any]], tuple[Tensor, Mapping[str, float]]]
"""``loss(model, batch)``: the mean loss of a batch, and numbers to log."""


class Joint(nn.Module):
    """Its forward pass is a loss that looks into the model. (Data-parallel training averages the gradients of what is
    reached through the forward pass of the module that it wraps, and of nothing else.)"""

    def __init__(self, model: nn.Module, heads: nn.Module, loss: LossFn) -> None:
        super().__init__()
        self.model = model
        self.heads = heads
        self._loss = loss

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, Mapping[str, float]]:
        """Loss and numbers of a batch, in the weights' own number format."""
        place = next(self.model.parameters()).device.type
        with torch.autocast(place, enabled=False):
            return self._loss(self.model, batch)
