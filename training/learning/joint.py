"""A model and the heads beside it as one module, so that what holds for a model's gradients holds for the heads', too:
they are averaged over ranks, and forgotten after every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cos.training.learning.losses import Batch, Counts, Numbers, StageLoss


class Joint(nn.Module):
    """Its forward pass is a loss that looks into the model. (Data-parallel training averages the gradients of what is
    reached through the forward pass of the module that it wraps, and of nothing else.)"""

    def __init__(self, model: nn.Module, heads: nn.Module, loss: StageLoss) -> None:
        super().__init__()
        self.model = model
        self.heads = heads
        self._loss = loss

    def forward(self, batch: Batch, counts: Counts | None = None) -> tuple[Tensor, Numbers]:
        """Loss and numbers of a batch as `StageLoss` has them, in the weights' own number format."""
        place = next(self.model.parameters()).device.type
        with torch.autocast(place, enabled=False):
            return self._loss(self.model, batch, counts)
