"""Muon in float32, for CPUs without bfloat16."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cos.training.learning.precision import computes_bf16

MATCH_ADAMW = 0.2
"""Root mean square of AdamW's updates, to which Muon's are scaled (arXiv 2502.16982, section 2.2)."""


def muon(matrices: Sequence[dict[str, Any]], learning_rate: float, weight_decay: float) -> torch.optim.Muon:
    """PyTorch's Muon with updates of AdamW's size, over groups of parameters. Its iteration runs in bfloat16; where
    that would be emulated, in float32."""
    kind = torch.optim.Muon if computes_bf16() else Float32Muon
    return kind(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")


class Float32Muon(torch.optim.Muon):
    """`torch.optim.Muon` with ``match_rms_adamw``, computed in float32; its state is the same."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return closure() if closure else None

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        update = orthogonalized(direction, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rate = group["lr"] * MATCH_ADAMW * max(parameter.shape) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)


def orthogonalized(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """A matrix with its singular values brought near 1, by Newton-Schulz iteration (Jordan et al.,
    https://kellerjordan.github.io/posts/muon/)."""
    a, b, c = coefficients
    is_tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if is_tall else matrix
    found = found / found.norm().clamp(min=eps)
    for _ in range(steps):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if is_tall else found
