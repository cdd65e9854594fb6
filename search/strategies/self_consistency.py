"""Self-consistency: n independent chains, the most frequent answer.

Source: Wang et al., arXiv 2203.11171; the paper's figure 5. Answers are compared by what they mean. A tie goes to the
answer that stands first in path order, so the outcome never depends on which chain ended first.
"""

from typing import Annotated

from pydantic import Field

from cos.search.search import Search
from cos.search.strategies.base import MAX_WIDTH, Params, Strategy
from cos.search.types import Chain


class SelfConsistencyParams(Params):
    """Parameters of self-consistency."""

    n: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = 8
    """Chains to sample."""


class SelfConsistency(Strategy):
    """The most frequent answer of n chains."""

    name = "self_consistency"
    aliases = ("majority", "sc")
    params = SelfConsistencyParams
    needs_scores = False

    async def run(self, search: Search, params: SelfConsistencyParams) -> Chain:
        chains = await search.sample(params.n, scored=False)
        winner = max(await search.groups(chains), key=len, default=chains)[0]
        search.select([winner], chains)
        return winner
