"""A tournament: each finalist is compared with each other one, both ways round, by a model that tells the better.

Asked about the same two in either order, a model that favours a place favours each of them once. A finalist's score is
the mean of its chances against all others, so it says how often it would win, and never depends on what ended first.
"""

import math
from collections.abc import Callable, Coroutine, Sequence
from itertools import combinations
from typing import Any

from cos.search.tasks import together
from cos.search.types import Chain

MOST_FINALISTS = 16
"""Chains of one tournament: that many take 240 comparisons."""

Compare = Callable[[Chain, Chain], Coroutine[Any, Any, float | None]]
"""The chance that the first of two chains is the better one; None where it cannot be told."""


def finalists_of(chains: Sequence[Chain], comparisons: int | None) -> list[Chain]:
    """The answered chains that a tournament can be held among, one of each text, in path order. ``comparisons``: how
    many there may be, any number unless given."""
    first = {chain.prefix: chain for chain in sorted(chains, key=lambda chain: chain.path, reverse=True)}
    found = sorted((chain for chain in first.values() if chain.is_answered), key=lambda chain: chain.path)
    most = min(len(found), MOST_FINALISTS)
    while comparisons is not None and most * (most - 1) > comparisons:
        most -= 1
    return found[:most]


async def play(finalists: Sequence[Chain], compare: Compare) -> list[float | None]:
    """The score of each finalist, in order; None for one without a comparison that came both ways round."""
    pairs = list(combinations(range(len(finalists)), 2))
    chances: list[list[float]] = [[] for _ in finalists]

    async def match(one: int, other: int) -> float | None:
        ahead, behind = await together(
            [compare(finalists[one], finalists[other]), compare(finalists[other], finalists[one])]
        )
        return None if ahead is None or behind is None else (ahead + 1 - behind) / 2

    for (one, other), chance in zip(pairs, await together(match(*pair) for pair in pairs), strict=True):
        if chance is not None:
            chances[one].append(chance)
            chances[other].append(1 - chance)
    return [math.fsum(each) / len(each) if each else None for each in chances]
