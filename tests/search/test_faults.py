"""Engines fail: one request is tried again, one lost child is no loss, and a dead engine is told at once."""

import asyncio
import gc
import math
import random
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress

import pytest
from PIL import Image

from cos.engines.scripted import Fault, Script, ScriptedEngine
from cos.engines.story import story, sureness
from cos.prm.matching import match
from cos.search.budget import Limits
from cos.search.errors import EngineDead, EngineError, SearchFailed
from cos.search.events import Event, Proposed, Scored
from cos.search.grammars.cos import answer_text
from cos.search.place import seed_of
from cos.search.prompt import Prompt
from cos.search.result import Result
from cos.search.run import run, solve
from cos.search.spec import SearchSpec
from cos.search.strategies import menu
from cos.search.types import Picture, Question

Find = Callable[..., Awaitable[Result]]

EVERY = sorted(menu())
SCORED = sorted(name for name, strategy in menu().items() if strategy.needs_scores)
UNREAD = ("greedy", "self_consistency", "self_critique")


def failing(*numbers: int, error: type[EngineError] = EngineError) -> ScriptedEngine:
    """An engine whose requests of these numbers fail."""
    fault: Fault = lambda _, number: error(f"request {number} failed") if number in numbers else None  # noqa: E731
    return ScriptedEngine(Script(fault=fault))


def broken(error: type[EngineError] = EngineError) -> ScriptedEngine:
    return ScriptedEngine(Script(fault=lambda _, __: error("nothing works")))


def start(policy: ScriptedEngine, prm: ScriptedEngine, strategy: str) -> AsyncGenerator[Event, None]:
    models = match(policy, prm)
    params = {} if strategy == "greedy" else {"n": 4}
    return run(Question("?"), SearchSpec(strategy, params), models)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("strategy", EVERY)
async def test_a_request_that_fails_once_is_tried_again_and_changes_nothing(find: Find, strategy: str) -> None:
    calm = await find(strategy)
    troubled = await find(strategy, policy=failing(0), prm=failing(1))
    assert troubled.usage.requests_failed == 2
    assert (troubled.chain, troubled.tree) == (calm.chain, calm.tree)


@pytest.mark.parametrize("strategy", [name for name in EVERY if name != "greedy"])
async def test_a_child_that_fails_twice_is_lost_and_its_siblings_go_on(find: Find, strategy: str) -> None:
    doomed = random.Random(seed_of(0, (1,))).getstate()

    def write(prompt: Prompt, written: str, rng: random.Random) -> str:
        if rng.getstate() == doomed:
            raise EngineError("this child always fails")
        return story(prompt, written, rng)

    result = await find(strategy, policy=ScriptedEngine(Script(writer=write)))
    assert result.usage.requests_failed == 2
    assert result.finish_reason == "answer"
    paths = {candidate.path for candidate in result.tree}
    assert (1,) not in paths
    assert (0,) in paths
    assert (2,) in paths


@pytest.mark.parametrize("strategy", EVERY)
async def test_a_level_that_fails_as_a_whole_is_an_engine_error(find: Find, strategy: str) -> None:
    policy = broken()
    with pytest.raises(EngineError, match="every candidate of a level failed"):
        await find(strategy, policy=policy)
    assert policy.in_flight == 0


async def test_a_later_level_that_fails_as_a_whole_costs_no_answer(find: Find) -> None:
    def write(prompt: Prompt, written: str, rng: random.Random) -> str:
        if written:
            raise EngineError("no second step can be written")
        if rng.random() < 0.5:
            return answer_text("15", first=True)
        return story(prompt, written, rng)

    result = await find("beam", {"n": 8, "beam_width": 8}, policy=ScriptedEngine(Script(writer=write)))
    assert result.chain.answer == "15"
    assert result.finish_reason == "answer"
    assert any("every candidate of a level failed" in warning for warning in result.warnings)
    assert any(candidate.end == "step" for candidate in result.tree), "there was more to search"


@pytest.mark.parametrize("strategy", EVERY)
async def test_a_dead_policy_is_told_at_once_and_its_siblings_are_aborted(find: Find, strategy: str) -> None:
    policy = ScriptedEngine(
        Script(
            fault=lambda _, number: EngineDead("gone") if number == 0 else None,
            delay=lambda _, number: 0.0 if number == 0 else 600.0,
        )
    )
    with pytest.raises(EngineDead, match="gone"):
        async with asyncio.timeout(60):
            await find(strategy, policy=policy)
    assert policy.in_flight == 0


@pytest.mark.parametrize("strategy", SCORED)
async def test_a_dead_prm_is_told_at_once(find: Find, strategy: str) -> None:
    policy, prm = ScriptedEngine(), failing(2, error=EngineDead)
    with pytest.raises(EngineDead):
        await find(strategy, policy=policy, prm=prm)
    assert policy.in_flight == prm.in_flight == 0


@pytest.mark.parametrize("which", ["policy", "prm"])
async def test_an_engine_that_is_dead_already_opens_no_search(find: Find, which: str) -> None:
    engine = ScriptedEngine()
    engine.kill()
    with pytest.raises(EngineDead):
        await find("beam", **{which: engine})


def unreadable(share: float) -> ScriptedEngine:
    """A PRM that gives this share of all it reads no number; which, its text decides."""

    def judge(prompt: Prompt, written: str) -> float:
        return math.nan if random.Random(written).random() < share else sureness(prompt, written)

    return ScriptedEngine(Script(judge=judge))


@pytest.mark.parametrize("strategy", SCORED)
async def test_some_reads_that_fail_leave_candidates_unscored_and_the_reply_says_how_many(
    find: Find, strategy: str
) -> None:
    params = {"n": 8} if strategy != "mcts" else None
    result = await find(strategy, params, prm=unreadable(0.2))
    assert result.finish_reason == "answer"
    assert 0 < result.usage.unscored < len(result.tree) / 2
    assert any(warning.startswith(f"{result.usage.unscored} of ") for warning in result.warnings)


async def test_a_prm_that_scores_all_is_not_warned_of(find: Find) -> None:
    assert (await find("beam")).warnings == ()


@pytest.mark.parametrize("prm", [broken, lambda: unreadable(1.0), lambda: unreadable(0.8)])
@pytest.mark.parametrize("strategy", [*SCORED, "auto"])
async def test_a_prm_most_of_whose_reads_fail_is_an_error_of_the_engine(
    find: Find, strategy: str, prm: Callable[[], ScriptedEngine]
) -> None:
    with pytest.raises(EngineError, match=r"the PRM failed to score \d+ of \d+ candidates"):
        await find(strategy, prm=prm())


@pytest.mark.parametrize("strategy", ["auto", "beam", "best_of_n", "weighted_vote"])
async def test_one_read_that_fails_is_no_broken_prm_however_many_candidates_say_what_it_was_shown(
    find: Find, strategy: str
) -> None:
    def write(prompt: Prompt, written: str, rng: random.Random) -> str:
        del prompt, written, rng
        return answer_text("4", first=True)

    result = await find(strategy, {"n": 8}, policy=ScriptedEngine(Script(writer=write)), prm=failing(0, 1))
    assert (result.chain.answer, result.chain.answer_score) == ("4", None)
    assert any(warning.startswith(f"{result.usage.unscored} of ") for warning in result.warnings)


async def test_a_prm_most_of_whose_reads_fail_is_no_answer_at_a_limit_either(find: Find) -> None:
    with pytest.raises(EngineError, match="the PRM failed to score"):
        await find("beam", prm=broken(), limits=Limits(tokens=900))


@pytest.mark.parametrize("strategy", UNREAD)
async def test_an_answer_that_no_score_decided_stands_without_them_and_says_so(find: Find, strategy: str) -> None:
    result = await find(strategy, prm=broken())
    assert result.finish_reason == "answer"
    assert result.value is None
    assert any("unscored" in warning for warning in result.warnings)


async def test_an_answer_whose_prm_does_not_reply_in_time_says_that_it_is_unscored(find: Find) -> None:
    silent = ScriptedEngine(Script(seconds_per_read=60))
    result = await find("best_of_n", prm=silent, limits=Limits(seconds=0.3))
    assert (result.finish_reason, result.value) == ("seconds", None)
    assert result.chain.is_answered
    assert any("of this answer are unscored" in warning for warning in result.warnings)


@pytest.mark.parametrize("strategy", [*UNREAD, "auto"])
async def test_a_dead_prm_costs_a_search_that_can_do_without_only_its_scores(find: Find, strategy: str) -> None:
    prm = ScriptedEngine()
    prm.kill()
    result = await find(strategy, prm=prm)
    assert result.finish_reason == "answer"
    assert any("the PRM's engine is gone" in warning for warning in result.warnings)


@pytest.mark.parametrize("strategy", UNREAD)
async def test_a_prm_that_dies_while_explaining_costs_the_scores_not_the_answer(find: Find, strategy: str) -> None:
    result = await find(strategy, prm=broken(EngineDead))
    assert result.finish_reason == "answer"
    assert "could not be scored" in result.warnings[0]


async def test_a_bug_is_raised_as_itself_whatever_else_fails_beside_it(find: Find) -> None:
    def judge(prompt: Prompt, written: str) -> float:
        raise ZeroDivisionError

    policy = failing(1, 2, error=EngineDead)
    with pytest.raises(ZeroDivisionError):
        await find("greedy_prm", {"n": 1}, policy=policy, prm=ScriptedEngine(Script(judge=judge)))


@pytest.mark.parametrize("strategy", EVERY)
async def test_closing_a_search_aborts_all_its_requests_before_it_returns(strategy: str) -> None:
    policy = ScriptedEngine(Script(delay=lambda _, number: 0.0 if number == 0 else 600.0))
    prm = ScriptedEngine(Script(seconds_per_read=30))
    async with aclosing(start(policy, prm, strategy)) as events:
        async for event in events:
            if isinstance(event, Proposed):
                break
        await until(lambda: policy.in_flight > 0)
    assert policy.in_flight == prm.in_flight == 0
    assert policy.aborted > 0


async def test_cancelling_whoever_listens_aborts_the_search() -> None:
    policy, prm = ScriptedEngine(), ScriptedEngine(Script(seconds_per_read=30))

    async def listen() -> None:
        async with aclosing(start(policy, prm, "beam")) as events:
            async for _ in events:
                pass

    listener = asyncio.create_task(listen())
    await until(lambda: prm.in_flight == 4)
    listener.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listener
    assert policy.in_flight == prm.in_flight == 0
    assert prm.aborted == 4


async def test_a_search_that_fails_after_its_listener_left_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    async with aclosing(start(ScriptedEngine(), failing(0, error=EngineDead), "greedy_prm")) as events:
        async for event in events:
            if isinstance(event, Proposed | Scored):
                await asyncio.sleep(0.02)
                break
    assert caplog.records == []


async def test_what_waits_for_its_turn_is_no_request_and_cannot_be_aborted() -> None:
    policy = ScriptedEngine(Script(delay=lambda _, number: 0.0 if number == 0 else 600.0))
    models = match(policy, ScriptedEngine())
    spec = SearchSpec("best_of_n", {"n": 8}, limits=Limits(live_sequences=2, seconds=0.2))
    result = await solve(Question("?"), spec, models)
    assert result.usage.requests_aborted == policy.aborted == 2


@pytest.mark.parametrize("strategy", ["auto", "beam", "dvts", "self_critique"])
@pytest.mark.parametrize("limits", [Limits(), Limits(tokens=150)])
async def test_a_search_that_is_over_leaves_no_picture_to_the_collector(strategy: str, limits: Limits) -> None:
    image = Image.new("RGB", (8, 8))
    gone = weakref.ref(image)
    models = match(ScriptedEngine(), ScriptedEngine())
    spec = SearchSpec(strategy, {"n": 4}, limits=limits)
    asked = Question("How much is it?", (Picture(image, "digest"),))
    gc.disable()
    try:
        with suppress(SearchFailed):
            await solve(asked, spec, models)
        del asked, image
        assert gone() is None
    finally:
        gc.enable()
