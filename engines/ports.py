"""What every runtime is to those who start, watch and stop it. A runtime has one model, for either role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from cos.search.ports import Ability, Draw, Drawn, HeadRead, LabelRead, Vocabulary
from cos.search.prompt import Prompt
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
    """A running model. It may also satisfy `cos.search.ports.ReportsLoad`, `HasMetrics` and `HasCaches`: ask by
    ``isinstance``."""

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
    def is_alive(self) -> bool:
        """False once no request can succeed any more."""
        ...

    @property
    def steps(self) -> int:
        """A number that grows as long as it gets on with requests, its probes included."""
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
class HasCaches(Protocol):
    """A runtime whose caches can be emptied."""

    async def forget(self, *, prefixes_only: bool = False) -> None:
        """Empties its caches, so that the same work costs the same again; ``prefixes_only`` keeps pictures and what the
        vision tower made of them. Errors: EngineError while requests run."""
        ...
