"""Auto: as much search as the question needs, step by step. The default.

It grows one chain. The first candidate of a step is drawn at temperature 0; while the best is worth less than
``confidence``, there are made four times as many, sampled, up to half of n; the best goes on. It stops there when it is
sure: the best chain is worth at least ``confidence``, and the best one with another answer at least ``margin`` less.
Still open, it grows a second chain with the other half, sampled throughout; the best answer of all wins. Where chain
values are no probabilities (likelihood, or no PRM) it draws 2, 4, ... up to n whole chains until most have one answer
(at least ``confidence`` of four or more), and takes the most frequent one.

Source: ours. To accept a step by a threshold on its reward, and to spend more only where it fails, is done between a
small and a large model by Liao et al., arXiv 2501.19324; to stop a vote early is adaptive consistency (Aggarwal et al.,
arXiv 2305.11860).
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
"""By how much a step's candidates grow in number: fewer rounds take less time, more of them fewer tokens."""
ENOUGH_VOTES = 4
"""Fewer chains than this are no majority."""


class AutoParams(Params):
    """Parameters of auto."""

    n: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = 16
    """Most candidates of a step over both chains; of votes, most chains."""
    confidence: Annotated[float, Field(ge=0, le=1)] = 0.8
    """What a step, and in the end the best chain, must be worth to be believed; of votes, the share they must have."""
    margin: Annotated[float, Field(ge=0, le=1)] = 0.1
    """By how much the best chain with another answer must be behind it."""


class Auto(Strategy):
    """As much search as the question needs."""

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
    """One chain of steps that are believed, and a second one while the answer is open."""
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
    """Whether the best candidate of a step is good enough to go on with."""
    best = search.rank_newest(level)[:1]
    return any((chain.candidates[-1].score or 0.0) >= params.confidence for chain in best)


def doubted(trunk: Chain, params: AutoParams) -> bool:
    """Whether a step was believed only just: what follows on it will likely need more than one candidate."""
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
    """What each chain is worth, where that says how likely it is right."""
    if not search.values_are_probabilities:
        return []
    return [value for chain in group if (value := search.confidence(chain)) is not None]


async def leader(search: Search, chains: Sequence[Chain]) -> Chain:
    """The best chain by value; without values, the best of the most frequent answer."""
    groups = await search.groups(chains)
    if probabilities(search, chains) or not groups:
        return search.rank(chains)[0]
    return search.rank(max(groups, key=len))[0]


async def elected(search: Search, chains: Sequence[Chain], params: AutoParams) -> bool:
    """Whether one answer has so many votes that more would hardly change it."""
    votes = max((len(group) for group in await search.groups(chains)), default=0)
    return len(chains) >= ENOUGH_VOTES and votes >= params.confidence * len(chains)


async def sure(search: Search, chains: Sequence[Chain], params: AutoParams) -> bool:
    """Whether the best answer is believed, and no other comes near it."""
    groups = await search.groups(chains)
    worth = sorted((max(probabilities(search, group), default=0.0) for group in groups), reverse=True)
    return bool(worth) and worth[0] >= params.confidence and worth[0] - (worth[1:] or [0.0])[0] >= params.margin
