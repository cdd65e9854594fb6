"""Limits are a contract: never exceeded, and met with the best chain so far and the limit's name."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import ClassVar

import pytest

from cos.engines.scripted import Script, ScriptedEngine, ScriptedSession
from cos.engines.story import story
from cos.prm.matching import match
from cos.search.budget import Limits
from cos.search.errors import InputError, SearchFailed
from cos.search.grammars.cos import Step, step_text
from cos.search.prompt import Prompt
from cos.search.result import Result
from cos.search.run import solve
from cos.search.search import Search
from cos.search.spec import SearchSpec
from cos.search.strategies import menu
from cos.search.strategies.base import Params, Strategy
from cos.search.terms import Sampling
from cos.search.types import Chain, Question

Find = Callable[..., Awaitable[Result]]

EVERY = sorted(menu())
SCORED = sorted(name for name, strategy in menu().items() if strategy.needs_scores)
UNREAD = ("greedy", "self_consistency", "self_critique")


def endless(prompt: Prompt, written: str, rng: random.Random) -> str:
    """Never comes to an answer."""
    del prompt
    return step_text(Step("On", f"and on [{rng.random():.4f}]", "Fine"), first=not written)


@pytest.mark.parametrize("strategy", EVERY)
@pytest.mark.parametrize("tokens", [12, 100, 299, 300, 700, 1100])
async def test_the_token_budget_is_never_exceeded(find: Find, strategy: str, tokens: int) -> None:
    result = await find(strategy, limits=Limits(tokens=tokens))
    assert 0 < result.usage.tokens_generated <= tokens
    assert result.finish_reason in ("answer", "tokens")
    assert result.is_complete == (result.chain.answer is not None)
    assert result.is_complete or result.finish_reason == "tokens"


@pytest.mark.parametrize("strategy", EVERY)
async def test_a_budget_that_suffices_changes_nothing(find: Find, strategy: str) -> None:
    ample = Limits(tokens=50_000, prm_reads=5_000, seconds=60)
    free, limited = await find(strategy), await find(strategy, limits=ample)
    assert (limited.chain, limited.tree, limited.finish_reason) == (free.chain, free.tree, "answer")


@pytest.mark.parametrize("strategy", EVERY)
@pytest.mark.parametrize("limits", [Limits(tokens=0), Limits(seconds=0)])
async def test_a_budget_that_allows_no_candidate_is_a_failed_search(find: Find, strategy: str, limits: Limits) -> None:
    with pytest.raises(SearchFailed, match=r"the limit on (tokens|seconds) was reached before the first candidate"):
        await find(strategy, limits=limits)


async def test_the_best_chain_so_far_is_the_one_with_the_best_steps(find: Find) -> None:
    result = await find("beam", {"n": 4, "beam_width": 2}, limits=Limits(prm_reads=8))
    assert result.finish_reason == "prm_reads"
    deepest = [candidate for candidate in result.tree if len(candidate.path) == 2 and candidate.score is not None]
    assert result.chain.candidates[-1] in deepest
    assert result.value is not None


@pytest.mark.parametrize("strategy", SCORED)
@pytest.mark.parametrize("reads", [0, 1, 5, 12])
async def test_the_read_budget_is_never_exceeded(find: Find, strategy: str, reads: int) -> None:
    result = await find(strategy, limits=Limits(prm_reads=reads))
    assert result.usage.prm_reads <= reads
    assert result.finish_reason == "prm_reads"
    assert result.chain.candidates


class CutApart(Strategy):
    """Expands two chains that a token limit has cut at different places, and then whatever it may."""

    name: ClassVar[str] = "cut_apart"
    aliases: ClassVar[tuple[str, ...]] = ()
    params: ClassVar[type[Params]] = Params
    needs_scores: ClassVar[bool] = True

    async def run(self, search: Search, params: Params) -> Chain:
        del params
        (first,) = await search.expand([(search.root, 1)])
        longest, cut, *_ = await search.expand([(first, 4)])
        one, other = await search.expand([(longest, 1), (cut, 1)])
        assert one.prefix == other.prefix
        assert [longest.tokens, cut.tokens] == [24, 19]
        while True:
            await search.expand([(search.root, 1)])


async def test_chains_of_one_text_that_was_cut_at_different_places_are_read_and_paid_for_each() -> None:
    paragraph = "abcdefghijklmnopqrstuvwxyz1234\n\n"
    draws = iter(("Go\n\n", paragraph, paragraph, "y\n\n", "z\n\n", paragraph[20:], paragraph[15:], "1\n\n", "2\n\n"))

    def write(prompt: Prompt, written: str, rng: random.Random) -> str:
        del prompt, written, rng
        return next(draws)

    policy = ScriptedEngine(Script(writer=write))
    spec = SearchSpec(
        "beam",
        limits=Limits(tokens=110, prm_reads=8),
        sampling=Sampling(step_tokens=20, max_steps=3),
        speculate=False,
    )
    spec.strategy = CutApart()
    result = await solve(Question("How much is it?"), spec, match(policy, ScriptedEngine(), grammar="paragraph"))
    assert result.finish_reason == "prm_reads"
    assert result.usage.prm_reads <= 8


@pytest.mark.parametrize("strategy", UNREAD)
async def test_an_answer_that_cannot_be_scored_any_more_stands_with_a_warning(find: Find, strategy: str) -> None:
    result = await find(strategy, limits=Limits(prm_reads=2))
    assert result.finish_reason == "answer"
    assert result.usage.prm_reads <= 2
    assert "the budget of 2 prm_reads is spent" in result.warnings[0]


@pytest.mark.parametrize("strategy", EVERY)
async def test_time_that_runs_out_ends_with_the_best_chain_so_far(find: Find, strategy: str) -> None:
    policy = ScriptedEngine(Script(delay=lambda kind, number: 0.0 if number == 0 else 30.0))
    result = await find(strategy, policy=policy, limits=Limits(seconds=0.6))
    assert result.finish_reason == "seconds"
    assert result.chain.candidates
    assert 0.6 <= result.timings.total_s < 5
    assert policy.in_flight == 0
    assert result.usage.requests_aborted == policy.aborted > 0


async def test_time_that_runs_out_inside_a_read_leaves_the_chain_unscored(find: Find) -> None:
    prm = ScriptedEngine(Script(seconds_per_read=30))
    result = await find("greedy_prm", prm=prm, limits=Limits(seconds=0.2))
    assert (result.finish_reason, result.value) == ("seconds", None)
    assert prm.in_flight == 0


async def test_time_spent_on_opening_the_question_counts() -> None:
    class Slow(ScriptedEngine):
        async def open(self, prompt: Prompt) -> ScriptedSession:
            await asyncio.sleep(600)
            return await super().open(prompt)

    models = match(Slow(), ScriptedEngine())
    spec = SearchSpec("beam", limits=Limits(seconds=0.05))
    with pytest.raises(SearchFailed, match="the limit on seconds"):
        await asyncio.wait_for(solve(Question("?"), spec, models), 60)


@pytest.mark.parametrize("strategy", EVERY)
async def test_no_more_sequences_are_live_than_allowed(find: Find, strategy: str) -> None:
    policy = ScriptedEngine(Script(delay=lambda kind, number: 0.001))
    result = await find(strategy, policy=policy, limits=Limits(live_sequences=2))
    assert policy.most_in_flight <= 2
    assert result.chain == (await find(strategy)).chain


@pytest.mark.parametrize("strategy", EVERY)
async def test_a_chain_of_exactly_the_allowed_steps_may_still_answer(find: Find, strategy: str) -> None:
    result = await find(strategy, sampling=Sampling(max_steps=3))
    assert result.finish_reason == "answer"
    assert len(result.chain.steps) == 3


@pytest.mark.parametrize("strategy", EVERY)
async def test_a_chain_that_wants_more_steps_than_allowed_ends_without_an_answer(find: Find, strategy: str) -> None:
    result = await find(strategy, policy=ScriptedEngine(Script(writer=endless)), sampling=Sampling(max_steps=2))
    assert result.finish_reason == "max_steps"
    assert not result.is_complete
    assert result.chain.answer is None
    assert max(len(candidate.path) for candidate in result.tree) == 3


@pytest.mark.parametrize("strategy", EVERY)
async def test_a_step_longer_than_allowed_is_truncated_and_never_scored(find: Find, strategy: str) -> None:
    prm = ScriptedEngine()
    result = await find(strategy, prm=prm, sampling=Sampling(step_tokens=20))
    assert result.finish_reason == "truncated"
    assert {candidate.end for candidate in result.tree} == {"truncated"}
    assert result.value is None
    assert prm.most_in_flight == 0


@pytest.mark.parametrize("strategy", EVERY)
@pytest.mark.parametrize("room", [1, 74, 75, 76, 150, 298, 299, 300])
async def test_a_chain_never_grows_beyond_the_policys_context(find: Find, strategy: str, room: int) -> None:
    prompt = len("How much is it?")
    result = await find(strategy, policy=ScriptedEngine(context_tokens=prompt + room))
    assert result.chain.tokens <= room
    assert result.usage.requests_failed == 0
    assert result.finish_reason == ("answer" if room >= 299 else result.finish_reason)
    assert result.finish_reason in ("answer", "truncated", "max_steps")


async def test_a_chain_too_long_for_the_prm_is_unscored_and_the_search_goes_on(find: Find) -> None:
    first, second = (await find("beam")).chain.candidates[:2]
    two_steps_with_tags = first.tokens + 1 + second.tokens + 1
    room_for_two = len("How much is it?") + two_steps_with_tags + 1
    result = await find("beam", prm=ScriptedEngine(context_tokens=room_for_two))
    assert result.finish_reason == "answer"
    assert [candidate.score is None for candidate in result.chain.candidates] == [False, False, True, True]


async def test_a_question_that_fills_the_context_is_refused(find: Find) -> None:
    with pytest.raises(InputError, match="take 15 tokens of 15") as error:
        await find("beam", policy=ScriptedEngine(context_tokens=15))
    assert error.value.param == "question"


async def test_a_chain_in_unreadable_text_ends_there_and_is_never_shown_to_the_prm(find: Find) -> None:
    def mumble(prompt: Prompt, written: str, rng: random.Random) -> str:
        return "mumble" if rng.random() < 0.5 else story(prompt, written, rng)

    shown: list[str] = []

    def judge(prompt: Prompt, written: str) -> float:
        del prompt
        shown.append(written)
        return 0.5

    result = await find(
        "best_of_n", {"n": 8}, policy=ScriptedEngine(Script(writer=mumble)), prm=ScriptedEngine(Script(judge=judge))
    )
    assert any(candidate.end == "broken" for candidate in result.tree)
    assert not any("mumble" in written for written in shown)
