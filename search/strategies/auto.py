"""Auto: as much search as the question needs, step by step. The default.

It grows one chain. The first candidate of a step is drawn at temperature 0. While the best candidate scores less than
``confidence``, more are sampled: four times as many in all each time, up to half of n. The best one goes on. The search
ends there if the best chain scores at least ``confidence``, and the best chain with another answer at least ``margin``
less. Otherwise a second chain is grown with the other half of n, all of it sampled, and the best answer wins.

Where chain scores are no probabilities (likelihood, or no PRM) it takes a vote. It draws 2, 4, ... up to n whole
chains, until there are at least four and a share of ``confidence`` of them has one answer. The most frequent answer
wins.

Source: ours. Liao et al. (arXiv 2501.19324) accept a step by a threshold on its reward, and spend more only where it
fails, between a small and a large model. Aggarwal et al. (adaptive consistency, arXiv 2305.11860) stop a vote early.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from pydantic import Field

from cos.search.errors import EngineDead, EngineError
from cos.search.search import Search
from cos.search.strategies.base import MAX_WIDTH, Params, Strategy
from cos.search.types import Chain, Wish

GROWTH = 4
"""By what factor the number of a step's candidates grows. A larger one takes less time, a smaller one fewer tokens."""
ENOUGH_VOTES = 4
"""Fewer chains than this are no majority."""


class AutoParams(Params):
    """Parameters of auto."""

    n: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = 16
    """Most candidates for one step, over both chains. In a vote: most chains."""
    confidence: Annotated[float, Field(ge=0, le=1)] = 0.8
    """The score, from 0 to 1, at which no more candidates are drawn for a step, and which the best chain needs in the
    end. In a vote: the share of the chains that one answer needs."""
    margin: Annotated[float, Field(ge=0, le=1)] = 0.1
    """How much lower the best chain with another answer must score, from 0 to 1."""


class Auto(Strategy):
    """One chain, with more candidates only where the PRM doubts a step."""

    name = "auto"
    aliases = ("adaptive",)
    params = AutoParams
    needs_scores = False

    async def run(self, search: Search, params: AutoParams) -> Chain:
        chains = await (believed if search.values_are_probabilities else voted)(search, params)
        winner = await leader(search, chains)
        search.select([winner], chains)
        return winner


async def believed(search: Search, params: AutoParams) -> list[Chain]:
    """One chain whose steps score well, and a second one unless the answer is clear."""
    half = max(1, params.n // 2)
    chains = await climb(search, params, half, first=0.0)
    if params.n > half and not await sure(search, chains, params):
        chains += await climb(search, params, params.n - half)
    return chains


async def climb(search: Search, params: AutoParams, most: int, *, first: float | None = None) -> list[Chain]:
    """A chain that follows the best of up to ``most`` candidates a step, and whatever else answered on its way.
    ``first``: the temperature of a step's first candidate, the search's unless given."""
    trunk, others = search.root, list[Chain]()
    while not trunk.is_last:
        level, drawn = list[Chain](), 0
        while drawn < most and not believable(search, params, level):
            n, heat = next_round(drawn, most), None if drawn else first
            is_doubted = drawn > 0 or doubted(trunk, params)
            drawn += n
            more = [Wish(trunk, next_round(drawn, most))] if drawn < most else []
            then, otherwise = partial(plan, search, params, tuple(level), more, first), more if is_doubted else []
            try:
                level += await search.expand([(trunk, n)], temperature=heat, then=then, otherwise=otherwise)
            except EngineError as error:
                # One candidate that the engine fails is not the end while others may be drawn.
                if isinstance(error, EngineDead) or (not level and drawn == most):
                    raise
        trunk = search.rank_newest(level)[0]
        search.select([trunk], level)
        others += [chain for chain in level if chain.is_answered and chain.path != trunk.path]
    return [trunk, *others]


def believable(search: Search, params: AutoParams, level: Sequence[Chain]) -> bool:
    """Whether the best candidate of a step scores ``confidence`` or more."""
    best = search.rank_newest(level)[:1]
    return any((chain.candidates[-1].score or 0.0) >= params.confidence for chain in best)


def doubted(trunk: Chain, params: AutoParams) -> bool:
    """Whether some step so far scored closer to ``confidence`` than to 1: the next one may need several candidates."""
    scores = [candidate.score or 0.0 for candidate in trunk.candidates]
    return min(scores, default=1.0) < (1 + params.confidence) / 2


def next_round(drawn: int, most: int) -> int:
    """How many candidates of a step are drawn after so many."""
    return min(max(1, (GROWTH - 1) * drawn), most - drawn)


def plan(
    search: Search,
    params: AutoParams,
    earlier: Sequence[Chain],
    more: Sequence[Wish],
    first: float | None,
    level: Sequence[Chain],
) -> Sequence[Wish]:
    """What follows on a step that is good enough: the first candidate of the next one. Otherwise more of this step."""
    level = [*earlier, *level]
    if not believable(search, params, level):
        return more
    best = search.rank_newest(level)[0]
    return [] if best.is_last else [Wish(best, 1, first)]


async def voted(search: Search, params: AutoParams) -> list[Chain]:
    """Whole chains, until one answer has the votes."""
    chains = list[Chain]()
    while len(chains) < params.n and not await elected(search, chains, params):
        chains += await search.sample(min(max(2, len(chains)), params.n - len(chains)), scored=True)
    return chains


def probabilities(search: Search, group: Sequence[Chain]) -> list[float]:
    """The scores of the chains, where they say how likely a chain is right."""
    if not search.values_are_probabilities:
        return []
    return [value for chain in group if (value := search.confidence(chain)) is not None]


async def leader(search: Search, chains: Sequence[Chain]) -> Chain:
    """The chain with the best score; without scores, the best chain of the most frequent answer."""
    groups = await search.groups(chains)
    if probabilities(search, chains) or not groups:
        return search.rank(chains)[0]
    return search.rank(max(groups, key=len))[0]


async def elected(search: Search, chains: Sequence[Chain], params: AutoParams) -> bool:
    """Whether one answer has so many votes that more chains would hardly change it."""
    votes = max((len(group) for group in await search.groups(chains)), default=0)
    return len(chains) >= ENOUGH_VOTES and votes >= params.confidence * len(chains)


async def sure(search: Search, chains: Sequence[Chain], params: AutoParams) -> bool:
    """Whether the best answer scores ``confidence``, and every other one ``margin`` less."""
    groups = await search.groups(chains)
    worth = sorted((max(probabilities(search, group), default=0.0) for group in groups), reverse=True)
    return bool(worth) and worth[0] >= params.confidence and worth[0] - (worth[1:] or [0.0])[0] >= params.margin
