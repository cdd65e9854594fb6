"""Chains grouped by what they answer."""

import asyncio
from collections.abc import Iterable, Sequence

from cos.search.answers import choice_of, plain
from cos.search.ports import Comparer
from cos.search.types import Chain

Group = tuple[Chain, ...]


async def groups_of(chains: Iterable[Chain], comparer: Comparer, choices: Sequence[str] = ()) -> list[Group]:
    """Answered chains by their answer, each group in path order, the groups in the order of their first chains.

    A chain joins the first group whose first chain it agrees with. Where ``choices`` are given, answers count by the
    choice they mean, and those that mean none do not count, unless all do.
    """
    answered = sorted((chain for chain in chains if chain.answer is not None), key=lambda chain: chain.path)
    if choices and (chosen := _by_choice(answered, tuple(choices))):
        return chosen
    groups: list[list[Chain]] = []
    known: dict[str, list[Chain]] = {}
    for chain in answered:
        answer = chain.answer or ""
        if (same := known.get(plain(answer))) is None:
            agreeing = await asyncio.gather(*(comparer.equal(answer, group[0].answer or "") for group in groups))
            same = next((group for group, agrees in zip(groups, agreeing, strict=True) if agrees), None)
            if same is None:
                same = []
                groups.append(same)
            known[plain(answer)] = same
        same.append(chain)
    return [tuple(group) for group in groups]


def _by_choice(answered: Sequence[Chain], choices: tuple[str, ...]) -> list[Group]:
    groups: dict[int, list[Chain]] = {}
    for chain in answered:
        if (choice := choice_of(chain.answer or "", choices)) is not None:
            groups.setdefault(choice, []).append(chain)
    return [tuple(group) for group in groups.values()]
