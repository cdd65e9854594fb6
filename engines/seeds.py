"""The numbers of seeded generators, drawn many at a call instead of one: the same numbers in the same order.

A CPU draws a sampling step's noise from one number of each sequence's own generator. Three small torch calls for each
sequence and step were what grew most in the sampler as more searches ran at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from torch import Generator, Tensor

AHEAD = 64
"""Numbers drawn at a call: about a step's tokens. What a sequence does not come to use is lost with its generator."""


class NumbersAhead:
    """Numbers in [0, 2^31), as ``torch.randint(0, 2**31, (1,), generator=generator)`` would give one after the other.

    Nothing else may draw from these generators.
    """

    def __init__(self) -> None:
        # The numbers alone: whatever led back to its generator would keep it alive.
        self._numbers: WeakKeyDictionary[Generator, _Ahead] = WeakKeyDictionary()

    def next(self, generators: Iterable[Generator]) -> Tensor:
        """The next number of each."""
        import torch

        return torch.tensor([self._take(generator) for generator in generators], dtype=torch.long)

    def give_back(self, generators: Iterable[Generator]) -> None:
        """Has the newest number of each come again. One number can be given back, once."""
        for generator in generators:
            ahead = self._numbers.get(generator)
            if ahead is not None and ahead.taken:
                ahead.taken -= 1

    def _take(self, generator: Generator) -> int:
        ahead = self._numbers.get(generator)
        if ahead is None or ahead.taken == AHEAD:
            ahead = self._numbers[generator] = _Ahead(_draw(generator))
        ahead.taken += 1
        return ahead.numbers[ahead.taken - 1]


@dataclass(slots=True)
class _Ahead:
    """One generator's."""

    numbers: list[int]
    taken: int = 0


def _draw(generator: Generator) -> list[int]:
    """The next numbers."""
    import torch

    drawn = torch.randint(0, 2**31, (AHEAD,), generator=generator, dtype=torch.long)
    return drawn.tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
