"""Batches of ledger chains: problems, pictures and padded token ids, all from a seed and the step number."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cos.training.chains import UNKNOWN, Encoded
from cos.training.ledger import Problem, sample_problem
from cos.training.render import Renderer, cells_of

BUCKETS = (192, 256, 320, 384, 448)
"""Sequence lengths that batches are padded to: few shapes, so that a compiled model is compiled few times."""

GROUP = 3
"""Batches drawn together and sorted by length, to waste little on padding."""

Encoder = Callable[[Problem, random.Random], Encoded]


@dataclass(frozen=True)
class Batch:
    """``pictures`` uint8 (batch, 3, 112, 112); the rest (batch, length)."""

    pictures: Tensor
    ids: Tensor
    should: Tensor
    verdict: Tensor
    is_tag: Tensor


def pad(chains: Sequence[Encoded], pictures: Tensor, padding: int) -> Batch:
    """Pads chains to the smallest bucket that holds them all."""
    longest = max(len(chain.ids) for chain in chains)
    length = next((bucket for bucket in BUCKETS if bucket >= longest), longest)

    def table(rows: list[list[int]] | list[list[bool]] | list[list[float]], fill: float, dtype: torch.dtype) -> Tensor:
        return torch.tensor([[*row, *([fill] * (length - len(row)))] for row in rows], dtype=dtype)

    return Batch(
        pictures,
        table([chain.ids for chain in chains], padding, torch.long),
        table([chain.should for chain in chains], UNKNOWN, torch.long),
        table([chain.verdict for chain in chains], -1.0, torch.float32),
        table([chain.is_tag for chain in chains], False, torch.bool),
    )


class LedgerBatches:
    """Fresh problems on fresh pictures for ever: ``batches(step)``."""

    def __init__(self, renderer: Renderer, encode: Encoder, size: int, padding: int, seed: int) -> None:
        self._renderer = renderer
        self._encode = encode
        self._size = size
        self._padding = padding
        self._seed = seed
        self._group: tuple[int, list[tuple[Problem, Encoded]]] = (-1, [])

    def __call__(self, step: int) -> Batch:
        group, place = divmod(step, GROUP)
        if self._group[0] != group:
            rng = random.Random(f"{self._seed}/{group}")
            problems = [sample_problem(rng) for _ in range(self._size * GROUP)]
            drawn = [(problem, self._encode(problem, rng)) for problem in problems]
            drawn.sort(key=lambda pair: len(pair[1].ids))
            self._group = (group, drawn)
        mine = self._group[1][place * self._size : (place + 1) * self._size]
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        cells = torch.tensor([cells_of(problem.rows) for problem, _ in mine])
        return pad([chain for _, chain in mine], self._renderer.draw(cells, generator), self._padding)
