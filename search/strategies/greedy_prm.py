"""PRM-guided step search, the paper's "PRM-BS": fan out n candidates, keep the one whose new step scores best.

Source: the paper, section 4.3.2 and figure 4c. Where the paper is silent: a candidate is cut at the end of its step, so
that the policy decides to go on or to answer as the next candidate is drawn; an answer competes with steps by the score
at its own tag; the search ends when an answer wins its level.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field

from cos.search.search import Search
from cos.search.strategies.base import MAX_WIDTH, Params, Strategy
from cos.search.types import Chain


class GreedyPrmParams(Params):
    """Parameters of PRM-guided step search."""

    n: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = 8
    """Candidates of a level."""


class GreedyPrm(Strategy):
    """Follow the best-scored step."""

    name = "greedy_prm"
    aliases = ("prm_bs",)
    params = GreedyPrmParams
    needs_scores = True

    async def run(self, search: Search, params: GreedyPrmParams) -> Chain:
        return await descend(search, params.n, search.rank_newest)


async def descend(search: Search, n: int, rank: Callable[[Sequence[Chain]], list[Chain]]) -> Chain:
    """The chain that follows the best of n children from the root on."""

    def follow(level: Sequence[Chain]) -> list[tuple[Chain, int]]:
        first = rank(level)[0]
        return [] if first.is_last else [(first, n)]

    trunk = search.root
    while not trunk.is_last:
        level = await search.expand([(trunk, n)], then=follow)
        trunk = rank(level)[0]
        search.select([trunk], level)
    return trunk
