"""The ports of PRM formats: what a runtime can be asked about a chain, and what a format is."""

from abc import abstractmethod
from typing import ClassVar, Protocol

from msgspec import Struct

from cos.search.grammar import Grammar
from cos.search.ports import Ability, Draw, Drawn, HeadRead, LabelRead, ScorerSession, Vocabulary
from cos.search.prompt import Prompt
from cos.search.scale import Scale
from cos.search.types import Prefix, Question

READ_PRIORITY = -1_000
"""Reads are one token long and a search waits for them: they go before any generation."""


class ReaderSession(Protocol):
    """One prompt, rendered once. A format asks what its ability names and nothing else."""

    async def read_labels(self, prefix: Prefix, labels: tuple[int, ...], priority: int) -> LabelRead:
        """The labels as next tokens after prompt + ``prefix``. Errors: EngineError, EngineDead."""
        ...

    async def read_head(self, prefix: Prefix, priority: int) -> HeadRead:
        """The head's values at the last token of prompt + ``prefix``. Errors: EngineError, EngineDead."""
        ...

    async def draw(self, prefix: Prefix, draw: Draw) -> Drawn:
        """A written verdict; see `cos.search.ports.PolicySession`."""
        ...


class Reader(Protocol):
    """A runtime that has a PRM."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def abilities(self) -> frozenset[Ability]:
        """What can be asked of its model."""
        ...

    async def open(self, prompt: Prompt) -> ReaderSession:
        """Renders a prompt. Errors: as `cos.search.ports.Policy.open`."""
        ...


class Judged(Struct, frozen=True, kw_only=True):
    """Whose chains a PRM is to judge."""

    vocabulary: Vocabulary
    """The policy's."""
    grammar: Grammar
    """What the policy writes in."""
    question_suffix: str = ""
    """Put behind every question for the PRM, on a line of its own."""


class PrmFormat(Protocol):
    """How a PRM is shown a question and a chain, what is asked at which place, and how that becomes a score: a
    `cos.search.ports.Scorer`. One format is one file in `cos.prm`, or a class that another distribution adds by the
    entry point ``cos.prms``."""

    name: ClassVar[str]
    """What ``--prm-format`` calls it."""
    ability: ClassVar[Ability]
    """What it asks of the model."""
    scale: Scale
    """What its scores mean, with the official threshold and aggregation."""

    def __init__(self, reader: Reader, judged: Judged) -> None:
        """Errors: InputError naming what the PRM lacks for this format."""
        ...

    @abstractmethod
    async def open(self, question: Question) -> ScorerSession:
        """Shows the PRM a question."""
        ...
