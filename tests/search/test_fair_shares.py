"""What a limit grants follows from the tree alone, and suffices for an answer wherever one chain fits."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cos.engines.scripted import Script, ScriptedEngine
from cos.search.budget import Limits
from cos.search.grammars.cos import STEP_END, Step, answer_text, step_text
from cos.search.prompt import Prompt
from cos.search.result import Result
from cos.search.strategies import menu
from cos.search.terms import Sampling

Find = Callable[..., Awaitable[Result]]

EVERY = sorted(menu())


def rambling(prompt: Prompt, written: str, rng: random.Random) -> str:
    """Three to five steps of uneven length, then an answer."""
    del prompt
    first, done = not written, written.count(STEP_END)
    if done >= 3 and (done == 5 or rng.random() < 0.5):
        return answer_text(str(rng.randrange(100)), first=first)
    thought = "so " * rng.randint(1, 12)
    return step_text(Step(f"Step {rng.randrange(1000)}", thought, "Fine"), first=first)


@dataclass(frozen=True)
class Order:
    """Requests end in an order of their own."""

    seed: int

    def __call__(self, kind: str, number: int) -> float:
        return random.Random(f"{self.seed} {kind} {number}").choice([0.0, 0.0, 0.001, 0.003])


def params(strategy: str, n: int) -> dict[str, Any]:
    return {"n": n} if "n" in menu()[strategy].params.model_fields else {}


def tree_of(result: Result) -> tuple[object, ...]:
    return result.chain, result.value, result.finish_reason, result.tree, result.warnings


@given(
    strategy=st.sampled_from(EVERY),
    n=st.integers(1, 6),
    limits=st.builds(
        Limits,
        tokens=st.none() | st.integers(50, 4_000) | st.just(65_536),
        prm_reads=st.none() | st.integers(0, 60),
        live_sequences=st.integers(1, 8),
    ),
    step_tokens=st.sampled_from([60, 100, 512]),
    seeds=st.lists(st.integers(0, 999), min_size=2, max_size=3),
    speculate=st.booleans(),
)
@settings(max_examples=200)
async def test_no_order_of_completion_changes_a_tree_whatever_the_limits(
    find: Find, strategy: str, n: int, limits: Limits, step_tokens: int, seeds: list[int], speculate: bool
) -> None:
    outcomes: list[tuple[object, ...]] = []
    for seed in seeds:
        result = await find(
            strategy,
            params(strategy, n),
            policy=ScriptedEngine(Script(writer=rambling, delay=Order(seed))),
            prm=ScriptedEngine(Script(judge=lambda _, written: len(written) % 97 / 97, delay=Order(seed + 1))),
            limits=limits,
            sampling=Sampling(step_tokens=step_tokens),
            speculate=speculate,
        )
        assert limits.tokens is None or result.usage.tokens_generated <= limits.tokens
        assert limits.prm_reads is None or result.usage.prm_reads <= limits.prm_reads
        outcomes.append(tree_of(result))
    assert all(outcome == outcomes[0] for outcome in outcomes)


async def test_nine_orders_of_completion_are_one_tree_under_a_token_limit(find: Find) -> None:
    results = await asyncio.gather(
        *(
            find(
                "best_of_n",
                {"n": 8},
                policy=ScriptedEngine(Script(writer=rambling, delay=Order(seed))),
                limits=Limits(tokens=1_500),
            )
            for seed in range(9)
        )
    )
    assert all(tree_of(result) == tree_of(results[0]) for result in results)


@pytest.mark.parametrize("strategy", EVERY)
@pytest.mark.parametrize("spare", [0, 1, 40, 200, 700, 1500, 3000])
@pytest.mark.parametrize("seed", [0, 1])
async def test_where_one_chain_fits_there_is_an_answer(find: Find, strategy: str, spare: int, seed: int) -> None:
    sampling = Sampling(seed=seed)
    name = "greedy" if strategy == "greedy" else "best_of_n"
    one = await find(name, params(name, 1), policy=ScriptedEngine(Script(writer=rambling)), sampling=sampling)
    tokens = one.usage.tokens_generated + spare
    result = await find(
        strategy,
        params(strategy, 8),
        policy=ScriptedEngine(Script(writer=rambling)),
        sampling=sampling,
        limits=Limits(tokens=tokens),
    )
    assert result.is_complete
    assert result.usage.tokens_generated <= tokens


async def test_a_search_that_cannot_afford_all_chains_draws_fewer_whole_ones(find: Find) -> None:
    policy = ScriptedEngine(Script(writer=rambling))
    whole = await find("best_of_n", {"n": 8}, policy=policy)
    half = whole.usage.tokens_generated // 2
    result = await find(
        "best_of_n", {"n": 8}, policy=ScriptedEngine(Script(writer=rambling)), limits=Limits(tokens=half)
    )
    answered = [candidate for candidate in result.tree if candidate.end == "answer"]
    assert result.finish_reason == "tokens"
    assert 2 <= len(answered) < 8
    assert not any(candidate.end == "truncated" for candidate in result.tree)
    assert result.usage.tokens_generated > 0.6 * half


async def test_dvts_answers_within_most_of_what_it_would_take(find: Find) -> None:
    whole = await find("dvts", {"n": 8}, policy=ScriptedEngine(Script(writer=rambling)))
    tokens = whole.usage.tokens_generated * 1_500 // 1_630
    result = await find("dvts", {"n": 8}, policy=ScriptedEngine(Script(writer=rambling)), limits=Limits(tokens=tokens))
    assert result.is_complete
