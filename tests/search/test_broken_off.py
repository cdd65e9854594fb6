"""A search that is broken off, however it is, leaves nothing behind: frames and errors do not hold each other, so its
picture is gone before the garbage collector comes by."""

import asyncio
import ctypes
import gc
import weakref
from collections.abc import Awaitable, Callable, Generator
from contextlib import aclosing, contextmanager, suppress

import psutil
import pytest
from PIL import Image

from cos.engines.scripted import Script, ScriptedEngine
from cos.prm.matching import match
from cos.search.budget import Limits
from cos.search.errors import CosError, EngineDead, EngineError, SearchFailed
from cos.search.events import Proposed
from cos.search.models import Models
from cos.search.run import run, solve
from cos.search.spec import SearchSpec
from cos.search.strategies import menu
from cos.search.types import Picture, Question

EVERY = sorted(menu())
SLOW = Script(delay=lambda _, number: 0.0 if number == 0 else 30.0)
NEVER = Script(delay=lambda _, __: 30.0)
SLOW_READS = Script(seconds_per_read=30)

Way = Callable[[Question, SearchSpec], Awaitable[None]]


@contextmanager
def uncollected() -> Generator[None]:
    """The collector rests."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def paired(policy: Script | None = None, prm: Script | None = None) -> Models:
    return match(ScriptedEngine(policy), ScriptedEngine(prm))


def spec_of(strategy: str, limits: Limits | None = None) -> SearchSpec:
    return SearchSpec(strategy, {} if strategy == "greedy" else {"n": 4}, limits=limits or Limits())


async def finish(question: Question, spec: SearchSpec, models: Models) -> None:
    await solve(question, spec, models)


async def cancelled_while_writing(question: Question, spec: SearchSpec) -> None:
    task = asyncio.create_task(finish(question, spec, paired(NEVER)))
    await asyncio.sleep(0.01)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def cancelled_while_reading(question: Question, spec: SearchSpec) -> None:
    task = asyncio.create_task(finish(question, spec, paired(None, SLOW_READS)))
    await asyncio.sleep(0.01)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def closed(question: Question, spec: SearchSpec) -> None:
    models = paired(SLOW)
    events = run(question, spec, models)
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Proposed):
                break


async def listener_cancelled(question: Question, spec: SearchSpec) -> None:
    async def listen() -> None:
        models = paired(NEVER)
        events = run(question, spec, models)
        async with aclosing(events):
            async for _ in events:
                pass

    task = asyncio.create_task(listen())
    await asyncio.sleep(0.01)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def out_of_time_without_a_candidate(question: Question, spec: SearchSpec) -> None:
    limited = spec_of(spec.strategy.name, Limits(seconds=0.01))
    with pytest.raises(SearchFailed):
        await finish(question, limited, paired(NEVER))


async def out_of_time(question: Question, spec: SearchSpec) -> None:
    limited = spec_of(spec.strategy.name, Limits(seconds=0.02))
    with suppress(SearchFailed):
        await finish(question, limited, paired(SLOW, SLOW_READS))


async def out_of_tokens(question: Question, spec: SearchSpec) -> None:
    with suppress(SearchFailed):
        await finish(question, spec_of(spec.strategy.name, Limits(tokens=1)), paired())


def every_request(error: type[EngineError]) -> Script:
    return Script(fault=lambda _, __: error("nothing works"))


async def engine_error(question: Question, spec: SearchSpec) -> None:
    with pytest.raises(EngineError):
        await finish(question, spec, paired(every_request(EngineError)))


async def engine_dead(question: Question, spec: SearchSpec) -> None:
    with pytest.raises(EngineDead):
        await finish(question, spec, paired(every_request(EngineDead)))


async def prm_dead(question: Question, spec: SearchSpec) -> None:
    with suppress(EngineDead):
        await finish(question, spec, paired(None, every_request(EngineDead)))


async def engine_error_told_by_run(question: Question, spec: SearchSpec) -> None:
    models = paired(every_request(EngineError))
    with pytest.raises(EngineError):
        async for _ in run(question, spec, models):
            pass


async def failed_told_by_run(question: Question, spec: SearchSpec) -> None:
    limited, models = spec_of(spec.strategy.name, Limits(seconds=0.01)), paired(NEVER)
    with pytest.raises(SearchFailed):
        async for _ in run(question, limited, models):
            pass


async def dead_before_it_opens(question: Question, spec: SearchSpec) -> None:
    models = paired()
    models.policy.kill()  # pyright: ignore[reportAttributeAccessIssue]
    with suppress(CosError):
        await finish(question, spec, models)


async def a_bug(question: Question, spec: SearchSpec) -> None:
    def fault(_: str, number: int) -> Exception:
        return ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        await finish(question, spec, paired(Script(fault=fault)))


WAYS: list[Way] = [
    cancelled_while_writing,
    cancelled_while_reading,
    closed,
    listener_cancelled,
    out_of_time_without_a_candidate,
    out_of_time,
    out_of_tokens,
    engine_error,
    engine_dead,
    prm_dead,
    engine_error_told_by_run,
    failed_told_by_run,
    dead_before_it_opens,
    a_bug,
]


@pytest.mark.parametrize("strategy", EVERY)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_search_that_is_broken_off_leaves_no_picture_to_the_collector(way: Way, strategy: str) -> None:
    image = Image.new("RGB", (8, 8))
    gone = weakref.ref(image)
    asked = Question("How much is it?", (Picture(image, "digest"),))
    with uncollected():
        await way(asked, spec_of(strategy))
        # The event loop holds the error that it has just thrown into this test, for this one turn.
        await asyncio.sleep(0)
        del asked, image
        assert gone() is None


async def test_five_hundred_broken_off_searches_with_a_large_picture_leave_memory_flat() -> None:
    """Pictures of 12 megapixels, 36 MB each, in turns of every way to break off."""
    process = psutil.Process()

    async def break_off(number: int) -> None:
        asked = Question("How much is it?", (Picture(Image.new("RGB", (4000, 3000), "white"), str(number)),))
        await WAYS[number % len(WAYS)](asked, spec_of(EVERY[number % len(EVERY)]))

    def held() -> int:
        # What is free goes back to the system first: how much of it the allocator keeps depends on all that ran before.
        ctypes.CDLL(None).malloc_trim(0)
        return process.memory_info().rss

    for number in range(len(WAYS)):
        await break_off(number)
    before = held()
    for number in range(500):
        await break_off(number)
        assert held() - before < 100 * 2**20, f"after {number + 1} searches"
