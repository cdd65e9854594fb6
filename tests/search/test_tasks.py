"""Coroutines side by side: results in order, and of several errors the one that tells most."""

import asyncio

import pytest

from cos.search.errors import BudgetExhausted, EngineDead, EngineError
from cos.search.tasks import dismiss, together


async def value(result: int, seconds: float = 0.0) -> int:
    await asyncio.sleep(seconds)
    return result


async def fail(error: Exception) -> int:
    raise error


async def test_results_come_in_the_order_of_the_coroutines_not_of_their_ends() -> None:
    assert await together([value(1, 0.02), value(2), value(3, 0.01)]) == [1, 2, 3]


async def test_the_most_telling_error_is_raised_whatever_the_order() -> None:
    telling = [ZeroDivisionError(), EngineDead("gone"), EngineError("failed"), BudgetExhausted("tokens", 1)]
    for start, expected in enumerate(telling):
        for errors in (telling[start:], telling[start:][::-1]):
            with pytest.raises(type(expected)) as caught:
                await together(fail(error) for error in errors)
            assert caught.value is expected


async def test_an_error_inside_a_group_inside_a_coroutine_counts_as_any_other() -> None:
    async def nested() -> int:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(EngineDead("gone")))
        return 0

    with pytest.raises(EngineDead):
        await together([nested(), fail(EngineError("failed"))])


async def test_when_one_fails_the_others_are_over_before_the_error_is_raised() -> None:
    slow = asyncio.create_task(value(1, 30))

    async def wait() -> int:
        return await slow

    with pytest.raises(EngineError):
        await together([wait(), fail(EngineError("failed"))])
    assert slow.cancelled()


async def test_a_dismissed_task_is_over_whatever_it_ended_with() -> None:
    running, failed, ended = (asyncio.create_task(c) for c in (value(1, 30), fail(EngineError("failed")), value(2)))
    await asyncio.sleep(0.01)
    for task in (running, failed, ended):
        await dismiss(task)
        assert task.done()
    assert running.cancelled()
    assert ended.result() == 2
