"""What every engine is to those who start, watch and stop it."""

from collections.abc import Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry

from cos.search.ports import Draw, Drawn, LabelRead, Vocabulary
from cos.search.types import Question


class Session(Protocol):
    """One question, rendered once: it can be continued and it can be read."""

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def tokens_aborted(self) -> int:
        """See `cos.search.ports.PolicySession`."""
        ...

    async def draw(self, continuation: Sequence[int], draw: Draw) -> Drawn:
        """See `cos.search.ports.PolicySession`."""
        ...

    async def read_labels(self, continuation: Sequence[int], labels: tuple[int, int], priority: int) -> LabelRead:
        """See `cos.prm.ports.ReaderSession`."""
        ...


class Engine(Protocol):
    """A running engine, fit for either role."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def context_tokens(self) -> int: ...

    @property
    def is_saturated(self) -> bool:
        """See `cos.search.ports.Policy`."""
        ...

    @property
    def is_alive(self) -> bool:
        """False once no request can succeed any more."""
        ...

    @property
    def steps(self) -> int:
        """A number that grows as long as the engine gets on with requests, its probes included."""
        ...

    @property
    def registry(self) -> CollectorRegistry:
        """The engine's own metrics."""
        ...

    async def open(self, question: Question) -> Session:
        """Renders a question. Errors: InputError, EngineDead."""
        ...

    async def probe(self) -> None:
        """Has it carry out the smallest request there is, before all others; returns when that is done.

        Errors: EngineError, EngineDead.
        """
        ...

    async def forget(self, *, prefixes_only: bool = False) -> None:
        """Empties its caches, so that the same work costs the same again; ``prefixes_only`` keeps pictures and what the
        vision tower made of them. Errors: EngineError while requests run."""
        ...

    async def close(self) -> None:
        """Stops it; idempotent."""
        ...
