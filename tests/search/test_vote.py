"""Chains grouped by what they answer."""

from cos.search.answers import PlainComparer
from cos.search.types import Candidate, Chain
from cos.search.vote import groups_of


def answering(answer: str | None, root: int) -> Chain:
    end = "step" if answer is None else "answer"
    return Chain((Candidate(path=(root,), token_ids=(root,), text="", end=end, answer=answer),))


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
