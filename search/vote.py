"""Chains grouped by what they answer."""

import asyncio
from collections.abc import Iterable, Sequence

from cos.search.answers import choice_of, equal
from cos.search.ports import Comparer
from cos.search.types import Chain

Group = tuple[Chain, ...]


def plain_groups(chains: Iterable[Chain]) -> list[Group]:
    """Answered chains by their answer, each group in path order, the groups in the order of their first chains.

    A chain joins the first group whose first chain it agrees with, as far as that is known without algebra.
    """
    groups: list[list[Chain]] = []
    for chain in sorted(chains, key=lambda chain: chain.path):
        if chain.answer is None:
            continue
        agreeing = (group for group in groups if equal(chain.answer, _answer(group)))
        if (group := next(agreeing, None)) is not None:
            group.append(chain)
        else:
            groups.append([chain])
    return [tuple(group) for group in groups]


async def groups_of(chains: Iterable[Chain], comparer: Comparer, choices: Sequence[str] = ()) -> list[Group]:
    """As `plain_groups`, and groups that ``comparer`` finds to say the same are one.

    Where ``choices`` are given, answers count by the choice they mean, and those that mean none do not count, unless
    all do.
    """
    if choices and (chosen := _by_choice(chains, tuple(choices))):
        return chosen
    merged: list[Group] = []
    for group in plain_groups(chains):
        agreeing = await asyncio.gather(*(comparer.equal(_answer(group), _answer(earlier)) for earlier in merged))
        if any(agreeing):
            place = agreeing.index(True)
            merged[place] = tuple(sorted((*merged[place], *group), key=lambda chain: chain.path))
        else:
            merged.append(group)
    return merged


def _answer(group: Sequence[Chain]) -> str:
    return group[0].answer or ""


def _by_choice(chains: Iterable[Chain], choices: tuple[str, ...]) -> list[Group]:
    groups: dict[int, list[Chain]] = {}
    for chain in sorted(chains, key=lambda chain: chain.path):
        choice = None if chain.answer is None else choice_of(chain.answer, choices)
        if choice is not None:
            groups.setdefault(choice, []).append(chain)
    return [tuple(group) for group in groups.values()]
