"""Auto: as much search as the question needs: few chains, more while the answer is open, then a beam. The default.

It samples 2, 4, ... up to half of n chains, and stops as soon as it is sure: the best chain is worth at least
``confidence``, and the best chain with another answer at least ``margin`` less. Still open, it spends the other half on
a step beam; the best chain of all wins. Where chain values are no probabilities (likelihood, or no PRM) it is sure when
most chains have one answer (at least ``confidence`` of four or more), goes on sampling up to n instead of a beam, and
takes the most frequent answer.

Source: ours. To stop a vote early is adaptive consistency (Aggarwal et al., arXiv 2305.11860); that hard questions are
better served by a beam is found in Snell et al., arXiv 2408.03314, section 5.3.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cos.search.strategies.base import MAX_WIDTH, Params, Strategy
from cos.search.strategies.beam import Beam, BeamParams
from cos.search.types import Chain

if TYPE_CHECKING:
    from cos.search.search import Search

FIRST = 2
"""Chains to begin with."""
ENOUGH_VOTES = 4
"""Fewer chains than this are no majority."""


class AutoParams(Params):
    """Parameters of auto."""

    n: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = 16
    """Most chains, or candidates of a level in their place."""
    confidence: Annotated[float, Field(ge=0, le=1)] = 0.8
    """What the best chain must be worth to be believed; of votes, the share they must have."""
    margin: Annotated[float, Field(ge=0, le=1)] = 0.1
    """By how much the best chain with another answer must be behind it."""


class Auto(Strategy):
    """As much search as the question needs."""

    name = "auto"
    aliases = ("adaptive",)
    params = AutoParams
    needs_scores = False

    async def run(self, search: "Search", params: AutoParams) -> Chain:
        chains, has_prm = list[Chain](), search.values_are_probabilities
        most = max(1, params.n // 2) if has_prm else params.n
        while len(chains) < most and not await sure(search, chains, params):
            n = min(max(FIRST, len(chains)), most - len(chains))
            more = min(len(chains) + n, most - len(chains) - n)
            then = partial(outlook, search, params, n, more)
            chains += await search.sample(n, scored=True, then=then if has_prm else None)
        if has_prm and params.n > most and not await sure(search, chains, params):
            chains.append(await Beam().run(search, BeamParams(n=params.n - most)))
        winner = await leader(search, chains)
        search.select([winner], chains)
        return winner


def outlook(
    search: "Search", params: AutoParams, n: int, more: int, growing: Sequence[Chain]
) -> list[tuple[Chain, int]]:
    """What is sampled after n chains: more, while none of them looks good enough to be believed."""
    good = any((search.confidence(chain) or 0.0) >= params.confidence for chain in growing)
    return [] if good or len(growing) < n or not more else [(search.root, more)]


def probabilities(search: "Search", group: Sequence[Chain]) -> list[float]:
    """What each chain is worth, where that says how likely it is right."""
    if not search.values_are_probabilities:
        return []
    return [value for chain in group if (value := search.confidence(chain)) is not None]


async def leader(search: "Search", chains: Sequence[Chain]) -> Chain:
    """The best chain by value; without values, the best of the most frequent answer."""
    groups = await search.groups(chains)
    if probabilities(search, chains) or not groups:
        return search.rank(chains)[0]
    return search.rank(max(groups, key=len))[0]


async def sure(search: "Search", chains: Sequence[Chain], params: AutoParams) -> bool:
    """Whether more chains would hardly change the answer."""
    groups = await search.groups(chains)
    if not groups:
        return False
    if not probabilities(search, chains):
        votes = max(len(group) for group in groups)
        return len(chains) >= ENOUGH_VOTES and votes >= params.confidence * len(chains)
    worth = sorted((max(probabilities(search, group), default=0.0) for group in groups), reverse=True)
    return worth[0] >= params.confidence and worth[0] - (worth[1] if len(worth) > 1 else 0.0) >= params.margin
