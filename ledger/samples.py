"""Ledgers without end as training data: problem, picture and turn of sample i follow from the seed and i alone.

Samples are drawn in groups of a few batches and sorted by length within a group, to waste little on padding.
"""

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cos.ledger.mnist import Digits
from cos.ledger.render import Renderer, cells_of
from cos.ledger.task import Problem, derive, sample_problem
from cos.training.data.generated import Samples
from cos.training.learning.encode import Sample, Turn, TurnEncoder

GROUP = 4
"""Batches drawn together."""

Write = Callable[[Problem, random.Random], Turn]


class LedgerData(Samples):
    """``samples`` fresh problems on fresh pictures, to be read in order and in batches of ``batch``."""

    def __init__(self, renderer: Renderer, write: Write, samples: int, batch: int, seed: int) -> None:
        self._renderer = renderer
        self._write = write
        self._samples = samples
        self._batch = batch
        self._seed = seed
        self._group: tuple[int, list[tuple[Problem, Turn]]] = (-1, [])

    def __len__(self) -> int:
        return self._samples

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """A batch at once, which is how a data loader asks: its pictures are drawn together."""
        drawn = [self._problem(index) for index in indices]
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + indices[0])
        pictures = self.draw([problem for problem, _ in drawn], generator)
        return [
            Sample(picture, problem.question, turn) for picture, (problem, turn) in zip(pictures, drawn, strict=True)
        ]

    def draw(self, problems: Sequence[Problem], generator: torch.Generator) -> Tensor:
        """Pictures of problems: uint8 (n, 3, 112, 112)."""
        return self._renderer.draw(torch.tensor([cells_of(problem.rows) for problem in problems]), generator)

    def _problem(self, index: int) -> tuple[Problem, Turn]:
        number, place = divmod(index, self._batch * GROUP)
        if self._group[0] != number:
            rng = random.Random(f"{self._seed}/{number}")
            problems = [sample_problem(rng) for _ in range(self._batch * GROUP)]
            group = [(problem, self._write(problem, rng)) for problem in problems]
            group.sort(key=lambda pair: len(pair[1].ids))
            self._group = (number, group)
        return self._group[1][place]


def gold_ledgers(digits: Digits, encoder: TurnEncoder, samples: int, batch: int, seed: int) -> LedgerData:
    """Gold derivations on fresh pictures."""

    def write(problem: Problem, _: random.Random) -> Turn:
        gold = derive(problem)
        return encoder.chain(gold.steps, gold.answer)

    return LedgerData(Renderer(digits), write, samples, batch, seed)
