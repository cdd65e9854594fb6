"""Best-of-N: n independent chains, the one with the best chain score.

Source: the paper, section 4.3.1. Steps are read by the PRM while their chain is still growing; nothing waits for the
slowest chain but the final ranking.
"""

from typing import Annotated

from pydantic import Field

from cos.search.search import Search
from cos.search.strategies.base import MAX_WIDTH, Params, Strategy
from cos.search.types import Chain


class BestOfNParams(Params):
    """Parameters of best-of-N."""

    n: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = 8
    """Chains to sample."""
    stop_hopeless: bool = False
    """Whether to stop a chain once it can no longer win. The answer stays the same. Which chains are whole depends on
    what ends first, so the tree may differ from run to run. It saves most where one low score decides (``aggregation``
    min or prod, or a likelihood)."""


class BestOfN(Strategy):
    """The best of n whole chains."""

    name = "best_of_n"
    aliases = ("bon",)
    params = BestOfNParams
    needs_scores = True
    takes_answer_scores = True

    async def run(self, search: Search, params: BestOfNParams) -> Chain:
        chains = await search.sample(params.n, scored=True, stop_hopeless=params.stop_hopeless)
        await search.compare(chains)
        ranked = search.rank(chains)
        search.select(ranked[:1], ranked)
        return ranked[0]
