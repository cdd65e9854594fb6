"""Chains grouped by what they answer."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from cos.search.answers import Shelf, choice_of, compare, may_be_undecided
from cos.search.ports import Comparer, Pair
from cos.search.types import Chain

Group = tuple[Chain, ...]

SECONDS = 10.0
"""Longest that one vote's algebra may take."""
MOST_PAIRS = 200
"""Comparisons that one vote may ask for."""


def plain_groups(chains: Iterable[Chain]) -> list[Group]:
    """Answered chains by their answer, each group in path order, the groups in the order of their first chains.

    A chain joins the first group whose first chain it agrees with, as far as that is known without algebra.
    """
    shelf, groups = Shelf(), list[list[Chain]]()
    for chain in sorted(chains, key=lambda chain: chain.path):
        if chain.answer is None:
            continue
        index = shelf.put(chain.answer)
        if index == len(groups):
            groups.append([])
        groups[index].append(chain)
    return [tuple(group) for group in groups]


async def groups_of(
    chains: Iterable[Chain],
    comparer: Comparer,
    choices: Sequence[str] = (),
    warn: Callable[[str], None] = lambda _: None,
    seconds: float = SECONDS,
) -> list[Group]:
    """As `plain_groups`, and groups that ``comparer`` finds to say the same are one.

    Where ``choices`` are given, answers count by the choice they mean, and those that mean none do not count, unless
    all do. Algebra that takes more than ``seconds`` in all counts for nothing, and ``warn`` is told: which groups there
    are never depends on which comparison was done first.
    """
    if choices and (chosen := _by_choice(chains, tuple(choices))):
        return chosen
    groups = plain_groups(chains)
    agreeing = await _agreeing(groups, comparer, warn, seconds)
    merged: dict[int, list[Chain]] = {}
    for index, group in enumerate(groups):
        place = next((earlier for earlier in merged if (earlier, index) in agreeing), index)
        merged.setdefault(place, []).extend(group)
    return [tuple(sorted(group, key=lambda chain: chain.path)) for group in merged.values()]


async def _agreeing(
    groups: Sequence[Group], comparer: Comparer, warn: Callable[[str], None], seconds: float
) -> set[tuple[int, int]]:
    """Which groups say the same by algebra, as pairs of their indices."""
    hard = {index for index, group in enumerate(groups) if may_be_undecided(_answer(group))}
    near = {(min(one, other), max(one, other)) for one in hard for other in range(len(groups)) if one != other}
    places = [
        (one, other)
        for one, other in sorted(near)
        if compare(_answer(groups[one]), _answer(groups[other])) == "undecided"
    ]
    if not places:
        return set()
    if len(places) > MOST_PAIRS:
        warn(
            f"the vote compared {MOST_PAIRS} pairs of answers of {len(places)}; some that say the same may stand apart"
        )
        places = places[:MOST_PAIRS]
    pairs: list[Pair] = [(_answer(groups[one]), _answer(groups[other])) for one, other in places]
    try:
        async with asyncio.timeout(seconds):
            verdicts = await comparer.agree(pairs)
    except TimeoutError:
        warn(f"comparing answers took longer than {seconds:g} s; those that differ in form counted as different")
        return set()
    late = sum(verdict is None for verdict in verdicts)
    if late:
        warn(f"{late} of {len(pairs)} pairs of answers could not be compared, or not in time, and counted as different")
    return {place for place, verdict in zip(places, verdicts, strict=True) if verdict}


def _answer(group: Sequence[Chain]) -> str:
    return group[0].answer or ""


def _by_choice(chains: Iterable[Chain], choices: tuple[str, ...]) -> list[Group]:
    groups: dict[int, list[Chain]] = {}
    for chain in sorted(chains, key=lambda chain: chain.path):
        choice = None if chain.answer is None else choice_of(chain.answer, choices)
        if choice is not None:
            groups.setdefault(choice, []).append(chain)
    return [tuple(group) for group in groups.values()]
