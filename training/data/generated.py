"""What training asks of a task whose problems a program draws.

Of such a problem everything is known. So it has a gold chain, and every step of any other chain can be checked exactly.
`cos.training.menu` has the tasks by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch.utils.data import Dataset

from cos.training.config.names import Split
from cos.training.data.rows import ChainRow, ProblemRow, TagLabel
from cos.training.learning.encode import Sample, Turn, TurnEncoder
from cos.training.runs.folder import StageContext


class Samples(Dataset[Sample], ABC):
    """Training samples that are to be read in order, a batch at once."""

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are."""

    @abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """A batch, which is how a data loader asks."""

    def __getitem__(self, index: int) -> Sample:
        """One sample."""
        return self.__getitems__([index])[0]


class GeneratedTask(Protocol):
    """Problems without end, from three disjoint sets of pictures (`Split`)."""

    def fetch(self, context: StageContext) -> None:
        """Has what pictures are drawn from on the disk once the first rank has fetched it. Every rank calls this.

        Errors: RuntimeError when it cannot be fetched.
        """
        ...

    def draw(self, context: StageContext, split: Split, problems: int, seed: int) -> list[ProblemRow]:
        """So many problems with pictures in the stage's folder. Pictures that are there already are kept.

        Problem i follows from split, seed and i alone.
        """
        ...

    def gold(
        self, context: StageContext, split: Split, encoder: TurnEncoder, samples: int, batch: int, seed: int
    ) -> Samples:
        """Gold chains over fresh problems, as a policy imitates them."""
        ...

    def imperfect(
        self, context: StageContext, split: Split, encoder: TurnEncoder, samples: int, batch: int, seed: int
    ) -> Samples:
        """Chains with mistakes in them over fresh problems, with exact labels, as a PRM learns from them."""
        ...

    def checked_turn(self, encoder: TurnEncoder, chain: ChainRow) -> Turn:
        """A chain over a problem of this task with an exact verdict at every token. Errors: InputError for others."""
        ...

    def exact_labels(self, chain: ChainRow) -> tuple[TagLabel, ...]:
        """A label for every step and the answer. Errors: InputError for chains over problems of other tasks."""
        ...

    def check_own(self, problem: ProblemRow) -> None:
        """Errors: InputError for a problem that is none of this task."""
        ...

    def write_heldout(self, path: Path, pictures: Path, problems: int, seed: int) -> None:
        """An archive of so many evaluation problems. ``pictures``: the folder of what pictures are drawn from."""
        ...
