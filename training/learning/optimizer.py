"""Muon for the matrices of a model's layers, AdamW for embeddings, heads, gains and biases: one optimiser to a trainer.

Both are PyTorch's own. Muon scales its updates to the size of AdamW's (``match_rms_adamw``), so that one learning rate
suits both.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn

from cos.training.config.keys import TrainingKeys
from cos.training.learning.muon import muon as matrix_optimizer
from cos.training.learning.parts import PARTS, Part, part_of

LAYER = re.compile(r"\.(layers?|blocks)\.\d+\.")
"""What the names of parameters within one of many layers have in common (Qwen's vision tower has blocks)."""

Kind = Literal["layer", "matrix", "rest"]
"""A matrix within a layer; a matrix or convolution elsewhere (projector, head, first patches); all else."""
Named = Sequence[tuple[str, nn.Parameter]]


def kind_of(name: str, parameter: torch.Tensor) -> Kind:
    """What a parameter is. Embeddings are looked up, not multiplied: they are no matrices (nor are single rows of them
    or of the head, which train beside adapters)."""
    if "trainable_tokens" in name:
        return "rest"
    if parameter.ndim == 2 and LAYER.search(name):
        return "layer"
    is_matrix = parameter.ndim > 3 or (parameter.ndim == 2 and "embed" not in name)
    return "matrix" if is_matrix else "rest"


class MuonAdamW(torch.optim.Optimizer):
    """Two optimisers behind one face; a learning-rate scheduler sees the groups of both."""

    def __init__(self, named: Named, keys: TrainingKeys) -> None:
        """AdamW for everything, or Muon for the matrices within layers. Both kinds of matrices are decayed, the rest
        never. Every group has the rate of its part."""
        groups = [group for part in PARTS for group in _groups_of(part, named, keys)]
        muons: tuple[Kind, ...] = ("layer",) if keys.optimizer == "muon" else ()
        by_muon = [group for group in groups if group["kind"] in muons]
        by_adamw = [group for group in groups if group["kind"] not in muons]
        self.parts: list[torch.optim.Optimizer] = []
        if by_muon:
            self.parts.append(matrix_optimizer(by_muon, keys.learning_rate, keys.weight_decay))
        if by_adamw:
            betas = (keys.adam_beta1, keys.adam_beta2)
            self.parts.append(torch.optim.AdamW(by_adamw, lr=keys.learning_rate, betas=betas))
        super().__init__([p for _, p in named], {"lr": keys.learning_rate})
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


def _groups_of(part: Part, named: Named, keys: TrainingKeys) -> list[dict[str, Any]]:
    """A part's groups of parameters, one for each kind there is."""
    rate = getattr(keys.learning_rates, part, None) or keys.learning_rate
    kinds: dict[Kind, list[nn.Parameter]] = {"layer": [], "matrix": [], "rest": []}
    for name, parameter in named:
        if part_of(name) == part:
            kinds[kind_of(name, parameter)].append(parameter)
    decay: dict[Kind, float] = {"layer": keys.weight_decay, "matrix": keys.weight_decay, "rest": 0.0}
    return [
        {"params": found, "lr": rate, "weight_decay": decay[kind], "part": part, "kind": kind}
        for kind, found in kinds.items()
        if found
    ]
