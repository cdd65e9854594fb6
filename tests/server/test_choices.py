"""Multiple-choice questions at /solve."""

import json
import random
from pathlib import Path

import pytest

from cos.engines.replay import question_of, replay, spec_of
from cos.engines.scripted import Script
from cos.search.grammars.cos import answer_text
from cos.search.prompt import Prompt
from cos.search.run import solve
from cos.search.strategies import menu
from tests.server.support import served


def three_ways(prompt: Prompt, written: str, rng: random.Random) -> str:
    """Answers at once: one option in two forms, and what is none of them most often."""
    del prompt
    said = rng.choice(["B", "the dog", "a bird", "a bird", "a bird"])
    return answer_text(said, first=not written)


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


@pytest.mark.parametrize("choices", [["cat", "dog"], None])
async def test_a_stored_vote_among_choices_is_made_again_as_it_was(choices: list[str] | None, tmp_path: Path) -> None:
    async with served(Script(writer=three_ways), trace_dir=tmp_path) as server:
        first = (await server.solve(strategy="self_consistency", n=48, seed=0, choices=choices)).json()
    trace = json.loads(next(tmp_path.glob("*/*.json")).read_text())
    assert trace["parameters"].get("choices") == first["parameters"].get("choices") == choices
    models = replay(trace)
    again = await solve(question_of(trace), spec_of(trace), models)
    assert list(again.chain.path) == trace["chain"]
    assert again.chain.answer == trace["answer"]


@pytest.mark.parametrize("strategy", sorted(set(menu()) - {"self_critique"}))
async def test_a_stored_trace_says_all_that_its_search_was_told(strategy: str, tmp_path: Path) -> None:
    told = {"temperature": 0.7, "max_steps": 3, "aggregation": "min", "step_weight": 0.4, "budget": {"tokens": 900}}
    sizes = {"n": 6} if "n" in menu()[strategy].params.model_fields else {"n": None}
    async with served(trace_dir=tmp_path) as server:
        assert (await server.solve(strategy=strategy, **sizes, **told)).status_code == 200
    trace = json.loads(next(tmp_path.glob("*/*.json")).read_text())
    spec = spec_of(trace)
    assert spec.params.model_dump().items() <= trace["parameters"].items()
    assert spec.sampling.model_dump().items() <= trace["parameters"].items()
    assert (spec.score, spec.aggregation, spec.step_weight) == ("prm", "min", 0.4)
    assert (spec.limits.tokens, spec.limits.prm_reads, spec.limits.seconds) == (900, None, None)
