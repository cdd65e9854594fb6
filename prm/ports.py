"""The port a PRM format needs: an engine that reads the log-probabilities of two labels after a continuation."""

from collections.abc import Sequence
from typing import Protocol

from cos.search.ports import LabelRead, Vocabulary
from cos.search.types import Question


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
