"""Chains grouped by what they answer."""

import asyncio
import time
from collections.abc import Callable
from types import ModuleType

from cos.search.answers import PlainComparer
from cos.search.math_answers import MathComparer
from cos.search.types import Candidate, Chain, Piece
from cos.search.vote import groups_of


def answering(answer: str | None, root: int) -> Chain:
    end = "step" if answer is None else "answer"
    return Chain((Candidate(path=(root,), written=(root,), tokens=1, piece=Piece("answer", answer or ""), end=end),))


async def grouped(*answers: str | None, choices: tuple[str, ...] = (), turned: bool = False) -> list[list[int]]:
    chains = [answering(answer, root) for root, answer in enumerate(answers)]
    found = await groups_of(chains[::-1] if turned else chains, PlainComparer(), choices)
    return [[chain.path[0] for chain in group] for group in found]


async def test_groups_stand_in_path_order_whatever_order_chains_come_in() -> None:
    expected = [[0, 2, 4], [1], [3]]
    assert await grouped("1/2", "7", "0.5", "cat", "50%") == expected
    assert await grouped("1/2", "7", "0.5", "cat", "50%", turned=True) == expected


async def test_a_chain_joins_the_group_whose_first_chain_it_agrees_with() -> None:
    # 1.0000 and 1.0002 differ, 1.0001 agrees with both.
    assert await grouped("1.0000", "1.00019", "1.0001") == [[0, 2], [1]]


async def test_a_chain_without_an_answer_has_no_group() -> None:
    assert await grouped(None, "7", None) == [[1]]
    assert await grouped(None) == []


async def test_answers_count_by_the_choice_they_mean() -> None:
    assert await grouped("B", "dog", "cat", "bird", choices=("cat", "dog")) == [[0, 1], [2]]


async def test_where_no_answer_means_a_choice_all_count() -> None:
    assert await grouped("fish", "bird", "fish", choices=("cat", "dog")) == [[0, 2], [1]]


Deciders = Callable[[str], ModuleType]
DECIDERS = """
import time


def slow(one, other):
    if "x" in one:
        time.sleep(0.3)
    return True


def hang_once(one, other):
    import pathlib
    mark = pathlib.Path(__file__).with_name("seen")
    if not mark.exists():
        mark.touch()
        time.sleep(60)
    return True
"""


def votes_on(letter: str, n: int) -> list[Chain]:
    return [answering(f"{letter}^{power}", power) for power in range(2, n + 2)]


async def test_a_slow_vote_does_not_hold_up_another(deciders: Deciders) -> None:
    ended: list[str] = []

    async def vote(letter: str, n: int) -> None:
        await groups_of(votes_on(letter, n), comparer, seconds=30)
        ended.append(letter)

    async with MathComparer(workers=2, decide=deciders(DECIDERS).slow) as comparer:
        await comparer.warm()
        slow = asyncio.create_task(vote("x", 6))
        await asyncio.sleep(0.05)
        await vote("y", 2)
        assert ended == ["y"]
        await slow


async def test_a_vote_that_takes_too_long_says_so_and_counts_what_differs_in_form_apart(deciders: Deciders) -> None:
    told: list[str] = []
    async with MathComparer(workers=1, decide=deciders(DECIDERS).slow) as comparer:
        groups = await groups_of(votes_on("x", 5), comparer, warn=told.append, seconds=0.1)
    assert len(groups) == 5
    assert told == ["comparing answers took longer than 0.1 s; those that differ in form counted as different"]


async def test_nothing_is_remembered_of_a_comparison_that_had_no_time(deciders: Deciders) -> None:
    async with MathComparer(seconds=0.3, workers=1, decide=deciders(DECIDERS).hang_once) as comparer:
        assert await comparer.agree([("x^2", "x*x")]) == [None]
        assert await comparer.agree([("x^2", "x*x")]) == [True]


async def test_many_different_answers_are_grouped_at_once() -> None:
    chains = [answering(str(number), number) for number in range(3000)]
    started = time.process_time()
    assert len(await groups_of(chains, PlainComparer())) == 3000
    assert time.process_time() - started < 5
