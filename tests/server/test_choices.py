"""Multiple-choice questions at /solve."""

import random

from cos.engines.scripted import Script
from cos.search.grammar import answer_pieces
from cos.search.types import Question
from tests.server.support import served


def three_ways(question: Question, written: str, rng: random.Random) -> str:
    """Answers at once: one option in two forms, and what is none of them most often."""
    del question
    said = rng.choice(["B", "the dog", "a bird", "a bird", "a bird"])
    return "".join(answer_pieces(said, first=not written))


async def test_the_vote_counts_options_and_the_reply_says_which_one_won() -> None:
    async with served(Script(writer=three_ways)) as server:
        asked = {"strategy": "self_consistency", "n": 48, "seed": 0}
        free = (await server.solve(**asked)).json()
        bound = (await server.solve(**asked, choices=["cat", "dog"])).json()
    assert (free["answer"], free["choice"]) == ("a bird", None)
    assert bound["choice"] == "dog"
    assert bound["answer"] in ("B", "the dog")


async def test_choices_change_neither_prompt_nor_candidates() -> None:
    async with served(Script(writer=three_ways)) as server:
        asked = {"strategy": "best_of_n", "n": 4, "seed": 3, "return_tree": True}
        free, bound = [(await server.solve(**asked, **more)).json() for more in ({}, {"choices": ["cat", "dog"]})]
    assert free["tree"] == bound["tree"]
    assert free["usage"]["policy_prompt_tokens"] == bound["usage"]["policy_prompt_tokens"]
