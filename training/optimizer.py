"""Muon for the matrices of a model's layers, AdamW for embeddings, heads, gains and biases: one optimiser to a trainer.

Both are PyTorch's own. Muon scales its updates to the size of AdamW's (``match_rms_adamw``), so that one learning rate
suits both.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from cos.training.muon import muon as matrix_optimizer

HIDDEN = re.compile(r"\.layers?\.\d+\.")
"""What the names of parameters within a layer have in common."""

BETAS = (0.9, 0.98)


class MuonAdamW(torch.optim.Optimizer):
    """Two optimisers behind one face; a learning-rate scheduler sees the groups of both."""

    def __init__(
        self, named: Sequence[tuple[str, nn.Parameter]], learning_rate: float, weight_decay: float, *, muon: bool
    ) -> None:
        """``muon=False``: AdamW for everything. Gains, biases and embeddings are never decayed."""
        inner = [p for name, p in named if p.ndim == 2 and HIDDEN.search(name)]
        outer = [p for name, p in named if not (p.ndim == 2 and HIDDEN.search(name))]
        self.parts: list[torch.optim.Optimizer] = []
        if inner and muon:
            self.parts.append(matrix_optimizer(inner, learning_rate, weight_decay))
        groups = [{"params": outer, "weight_decay": 0.0}] if outer else []
        groups += [{"params": inner, "weight_decay": weight_decay}] if inner and not muon else []
        if groups:
            self.parts.append(torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS))
        super().__init__([p for _, p in named], {"lr": learning_rate})
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of everything."""
        for part in self.parts:
            part.step()  # pyright: ignore[reportUnknownMemberType]
        return closure() if closure else None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients of both."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the states of both."""
        for part, saved in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(saved)
        self.param_groups = [group for part in self.parts for group in part.param_groups]
