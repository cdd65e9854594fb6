"""A strategy of your own: whole chains one after the other, until one is good enough."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cos.search.strategies import Params, Strategy
from cos.search.types import Chain

if TYPE_CHECKING:
    from cos.search.search import Search


class FirstGoodParams(Params):
    """Parameters of first_good. They appear at GET /v1/strategies."""

    n: Annotated[int, Field(ge=1, le=64)] = 8
    """Most chains."""
    enough: Annotated[float, Field(ge=0, le=1)] = 0.9
    """What a chain must be worth to end the search."""


class FirstGood(Strategy):
    """The first chain that is good enough, or the best of n."""

    name = "first_good"
    aliases = ()
    params = FirstGoodParams
    needs_scores = True

    async def run(self, search: "Search", params: FirstGoodParams) -> Chain:
        chains: list[Chain] = []
        while len(chains) < params.n:
            chains += await search.sample(1, scored=True)
            if (search.confidence(chains[-1]) or 0.0) >= params.enough:
                break
        ranked = search.rank(chains)
        search.select(ranked[:1], ranked)
        return ranked[0]
