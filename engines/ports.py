"""What every runtime is to those who start, watch and stop it. A runtime has one model, for either role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from cos.search.errors import EngineDead
from cos.search.ports import Ability, Draw, Drawn, HeadRead, LabelRead, Vocabulary
from cos.search.prompt import Prompt, TurnMarks
from cos.search.types import Prefix

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class Session(Protocol):
    """One prompt, rendered once: it can be continued and it can be read."""

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def tokens_aborted(self) -> int:
        """See `cos.search.ports.PolicySession`."""
        ...

    async def draw(self, prefix: Prefix, draw: Draw) -> Drawn:
        """See `cos.search.ports.PolicySession`."""
        ...

    async def read_labels(self, prefix: Prefix, labels: tuple[int, ...], priority: int) -> LabelRead:
        """See `cos.prm.ports.ReaderSession`."""
        ...

    async def read_head(self, prefix: Prefix, priority: int) -> HeadRead:
        """See `cos.prm.ports.ReaderSession`."""
        ...


class Runtime(Protocol):
    """A running model. It may also satisfy `cos.search.ports.ReportsLoad` and `CountsPictures`, `HasMetrics` and
    `HasCaches`: ask by ``isinstance``."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def context_tokens(self) -> int:
        """Longest prompt + continuation."""
        ...

    @property
    def abilities(self) -> frozenset[Ability]:
        """What can be asked of its model as a PRM."""
        ...

    @property
    def model(self) -> str:
        """See `cos.prm.ports.Reader`, as for the next two."""
        ...

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def files(self) -> frozenset[str]: ...

    @property
    def is_alive(self) -> bool:
        """False while no request can succeed; for good, unless it `ComesBack`."""
        ...

    @property
    def steps(self) -> int:
        """A number that grows as long as it gets on with requests, its probes included."""
        ...

    def turn_marks(self) -> TurnMarks:
        """See `cos.prm.ports.Reader`."""
        ...

    def reply_marks(self) -> TurnMarks:
        """See `cos.prm.ports.Reader`."""
        ...

    async def open(self, prompt: Prompt) -> Session:
        """Renders a prompt. Errors: InputError, EngineDead."""
        ...

    async def probe(self) -> None:
        """Has it carry out the smallest request there is, before all others; returns when that is done.

        Errors: EngineError, EngineDead.
        """
        ...

    async def close(self) -> None:
        """Stops it; idempotent."""
        ...


@runtime_checkable
class HasMetrics(Protocol):
    """A runtime with metrics of its own."""

    @property
    def registry(self) -> CollectorRegistry: ...


@runtime_checkable
class ComesBack(Protocol):
    """A runtime elsewhere. It may be lost and found again, and may not carry all that one in process does."""

    @property
    def loss(self) -> EngineDead:
        """What to say while it is not alive."""
        ...

    @property
    def lacks(self) -> tuple[str, ...]:
        """What it cannot carry: what it does instead, and what to do about it, each behind "the policy ..."."""
        ...


@runtime_checkable
class HasCaches(Protocol):
    """A runtime whose caches can be emptied."""

    async def forget(self, *, prefixes_only: bool = False) -> None:
        """Empties its caches, so that the same work costs the same again; ``prefixes_only`` keeps pictures and what the
        vision tower made of them. Errors: EngineError while requests run."""
        ...
