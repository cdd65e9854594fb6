"""A search that is stopped from outside answers with the best it has, and says why."""

import asyncio

import pytest

from cos.engines.scripted import Script, ScriptedEngine
from cos.prm.matching import match
from cos.search.errors import SearchFailed
from cos.search.events import Answered, Proposed
from cos.search.result import Result
from cos.search.run import run
from cos.search.spec import SearchSpec
from cos.search.stop import Stop
from cos.search.types import Question


def slow_after(number: int) -> ScriptedEngine:
    """A policy whose draws from this one on take a minute."""
    return ScriptedEngine(Script(delay=lambda _, drawn: 0.0 if drawn < number else 60.0))


async def stopped(policy: ScriptedEngine, stop: Stop, written: int) -> Result | None:
    """A search that is stopped once so many candidates are there."""
    models, seen = match(policy, ScriptedEngine()), 0
    spec = SearchSpec("beam", {"n": 4}, speculate=False)
    searching = run(Question("?"), spec, models, stop=stop)
    if not written:
        asyncio.get_running_loop().call_later(0.02, stop.set)
    async for event in searching:
        if isinstance(event, Proposed):
            seen += 1
            if seen == written:
                asyncio.get_running_loop().call_later(0.02, stop.set)
        if isinstance(event, Answered):
            return event.result
    return None


async def test_a_stopped_search_gives_its_best_so_far_and_aborts_the_rest() -> None:
    policy = slow_after(6)
    async with asyncio.timeout(60):
        result = await stopped(policy, Stop(), 6)
    assert result is not None
    assert (result.finish_reason, len(result.chain.candidates)) == ("shutdown", 2)
    assert policy.in_flight == 0


async def test_a_search_that_begins_after_the_stop_ends_at_once() -> None:
    stop = Stop()
    stop.set()
    with pytest.raises(SearchFailed):
        await stopped(slow_after(0), stop, 1)


async def test_a_search_stopped_before_its_first_candidate_has_nothing_to_give() -> None:
    policy = slow_after(0)
    with pytest.raises(SearchFailed):
        await stopped(policy, Stop(), 0)
    assert policy.in_flight == 0
