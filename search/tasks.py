"""Structured concurrency: run coroutines together, and tell one error when they fail."""

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, TypeVar

from cos.search.errors import BudgetExhausted, CosError, EngineDead, EngineError

T = TypeVar("T")


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Results in order. When one fails, the others are cancelled first; then the most telling error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as errors:
        raise _most_telling(errors) from errors
    return [task.result() for task in tasks]


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _most_telling(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """A bug before a dead engine before a failed request before a spent budget."""

    def weight(error: BaseException) -> int:
        if not isinstance(error, CosError):
            return 0
        order = (EngineDead, EngineError, CosError, BudgetExhausted)
        return 4 if isinstance(error, BudgetExhausted) else 1 + next(i for i, kind in enumerate(order) if isinstance(error, kind))

    return min(_leaves(group), key=weight)
