"""Number formats of training; Muon in float32 does what PyTorch's does in bfloat16."""

import pytest
import torch
from torch import Tensor, nn

from cos.training.learning import precision as precision_of
from cos.training.learning.muon import Float32Muon, orthogonalized

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def moved(kind: type[torch.optim.Muon], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A matrix and its momentum after a few updates."""
    rng = torch.Generator().manual_seed(1)
    matrix = nn.Parameter(torch.randn(shape, generator=rng))
    optimizer = kind([matrix], lr=0.01, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    start = matrix.detach().clone()
    for _ in range(5):
        matrix.grad = torch.randn(shape, generator=rng)
        optimizer.step()  # pyright: ignore[reportUnknownMemberType]
    return matrix.detach() - start, optimizer.state[matrix]["momentum_buffer"]


@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)])
def test_updates_are_those_of_pytorch_but_for_rounding(shape: tuple[int, int]) -> None:
    own, momentum = moved(Float32Muon, shape)
    theirs, their_momentum = moved(torch.optim.Muon, shape)
    assert torch.equal(momentum, their_momentum)
    assert (own - theirs).norm() < 0.02 * theirs.norm()


def test_singular_values_come_near_one() -> None:
    found = orthogonalized(torch.randn(32, 16, generator=torch.Generator().manual_seed(2)), COEFFICIENTS, 5, 1e-7)
    values = torch.linalg.svdvals(found)
    assert found.shape == (32, 16)
    assert values.min() > 0.5
    assert values.max() < 1.5


@pytest.mark.parametrize(
    ("precision", "has_bf16", "found"),
    [("auto", True, True), ("auto", False, False), ("bf16", False, True), ("fp32", True, False)],
)
def test_bf16_is_used_where_there_is_any(
    monkeypatch: pytest.MonkeyPatch, precision: precision_of.Precision, has_bf16: bool, found: bool
) -> None:
    monkeypatch.setattr(precision_of, "computes_bf16", lambda: has_bf16)
    assert precision_of.is_bf16(precision) == found
