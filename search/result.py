"""What comes out of a search."""

from dataclasses import dataclass, field

from cos.search.select import Ruler
from cos.search.types import Candidate, Chain, FinishReason, Timings, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The end of a search: the best chain, and all it took to find it."""

    chain: Chain
    ruler: Ruler
    """How its chains were measured."""
    value: float | None
    """The chain's score under the aggregation in force; None where it is unscored."""
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    tree: tuple[Candidate, ...] = field(repr=False)
    """Every candidate, in path order."""
    warnings: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether there is a whole answer."""
        return self.chain.is_answered
