"""Structured concurrency: run coroutines together, and tell one error when they fail."""

import asyncio
import traceback
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar, cast

from cos.search.errors import BudgetExhausted, EngineDead, EngineError

T = TypeVar("T")

TELLING = (EngineDead, EngineError, BudgetExhausted)
"""Errors of ours from the most to the least telling; whatever else is a bug and comes before them all."""


class TaskGroup(asyncio.TaskGroup):
    """A task group whose error does not keep alive what it came through. `asyncio.TaskGroup` keeps an error in the very
    frames that the error's traceback leads to: a search that was cancelled would stay, with its picture, until the
    garbage collector comes by."""

    async def __aexit__(
        self, et: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(et, exc, tb)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)
            del self, exc, tb
            raise


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Results in order. When one fails, the others are cancelled first; then the most telling error is raised."""
    group, tasks = TaskGroup(), list[asyncio.Task[T]]()
    try:
        async with group:
            tasks += [group.create_task(coroutine) for coroutine in coroutines]
        return [task.result() for task in tasks]
    except BaseExceptionGroup as errors:
        error = _most_telling(errors)
    finally:
        # As above: group and tasks hold the error, whose traceback holds this frame.
        del group, tasks
    try:
        raise error
    finally:
        del error


class Gate:
    """Lets so many through at once, the others in the order they came. As `asyncio.Semaphore`, whose entry costs a
    search of a few microseconds a request several per cent of its own time."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_full(self) -> bool:
        """Whether whoever comes now has to wait."""
        return self._free <= 0

    async def enter(self) -> None:
        """Takes a place."""
        if self._free > 0:
            self._free -= 1
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Gives a place back, to whoever has waited longest."""
        while self._waiting:
            first = self._waiting.popleft()
            if not first.done():
                first.set_result(None)
                return
        self._free += 1


async def dismiss(task: asyncio.Task[Any]) -> None:
    """Cancels a task and returns once it is over, whatever it ended with."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(part)
    else:
        yield error


def _most_telling(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """A bug before a dead engine before a failed request before a spent budget."""

    def weight(error: BaseException) -> int:
        return next((1 + place for place, kind in enumerate(TELLING) if isinstance(error, kind)), 0)

    return min(_leaves(group), key=weight)
