"""Coroutines side by side: results in order, and of several errors the one that tells most."""

import asyncio

import pytest

from cos.search.errors import BudgetExhausted, EngineDead, EngineError
from cos.search.tasks import Gate, dismiss, together


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


async def test_a_gate_lets_through_so_many_at_once_in_the_order_they_came() -> None:
    gate, order, inside, most = Gate(2), list[int](), 0, 0

    async def pass_through(number: int) -> None:
        nonlocal inside, most
        await gate.enter()
        order.append(number)
        inside, most = inside + 1, max(most, inside + 1)
        await asyncio.sleep(0.001)
        inside -= 1
        gate.leave()

    await asyncio.gather(*map(pass_through, range(7)))
    assert order == list(range(7))
    assert most == 2
    assert not gate.is_full


async def test_who_is_cancelled_at_a_gate_takes_no_place_with_them() -> None:
    gate = Gate(1)
    await gate.enter()
    first, second = asyncio.create_task(gate.enter()), asyncio.create_task(gate.enter())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    gate.leave()
    await asyncio.wait_for(second, 30)
    # One that is let through and cancelled at the same moment gives its place back.
    third = asyncio.create_task(gate.enter())
    await asyncio.sleep(0)
    gate.leave()
    third.cancel()
    await asyncio.gather(third, return_exceptions=True)
    assert not gate.is_full
