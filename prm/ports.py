"""The port a PRM format needs: an engine that reads the log-probabilities of two labels after a continuation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cos.search.ports import Vocabulary
from cos.search.types import Question


@dataclass(frozen=True, slots=True)
class LabelRead:
    """One generated token's log-probabilities of the two labels, over the full vocabulary and not renormalised."""

    good: float
    bad: float
    prompt_tokens: int
    cached_tokens: int


class ReaderSession(Protocol):
    """One question, rendered once."""

    async def read_labels(self, continuation: Sequence[int], labels: tuple[int, int], priority: int) -> LabelRead:
        """The labels (good, bad) as next tokens after prompt + ``continuation``. Errors: EngineError, EngineDead."""
        ...


class Reader(Protocol):
    """An engine that reads labels."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    async def open(self, question: Question) -> ReaderSession: ...
