"""What a strategy is: a coroutine of some thirty lines against the Search handle, and its parameters."""

from abc import abstractmethod
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from cos.search.search import Search
from cos.search.types import Chain

MAX_WIDTH = 256
"""Most candidates of one level."""


class Params(BaseModel):
    """The parameters of a strategy: frozen, closed, documented by their docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class Strategy(Protocol):
    """Decides what to expand, what to keep and when to stop. Stateless: one object serves every search."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]]
    params: ClassVar[type[Params]]
    needs_scores: ClassVar[bool]
    """Whether it decides by scores, so that it needs a PRM or the policy's likelihood."""
    takes_answer_scores: ClassVar[bool] = False
    """Whether it can do, where it needs scores, with those of whole answers."""

    @abstractmethod
    async def run(self, search: Search, params: Any) -> Chain:
        """The winning chain. ``params`` is an instance of the strategy's own ``params`` type."""
        ...
