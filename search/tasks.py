"""Structured concurrency: run coroutines together, and tell one error when they fail."""

import asyncio
import traceback
from collections import deque
from collections.abc import Awaitable, Coroutine, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar, cast

from cos.search.errors import BudgetExhausted, EngineDead, EngineError

T = TypeVar("T")

TELLING = (EngineDead, EngineError, BudgetExhausted)
"""Errors of ours from the most to the least telling; whatever else is a bug and comes before them all."""


def forget_frames(error: BaseException) -> None:
    """Takes the local variables out of all finished frames that an error, its causes and its parts have come through;
    the traceback can be told as before. An error whose frames hold it (in a task, a group, a variable) is a cycle: with
    the frames' variables, a search's picture would stay until the garbage collector comes by."""
    for found in _with_its_causes(error):
        traceback.clear_frames(found.__traceback__)


def forget_traceback(error: BaseException) -> None:
    """As `forget_frames`, for an error that was told and is over: frames that still run go too."""
    for found in _with_its_causes(error):
        traceback.clear_frames(found.__traceback__)
        found.__traceback__ = None


def _with_its_causes(error: BaseException) -> list[BaseException]:
    found, left = dict[int, BaseException](), [error]
    while left:
        one = left.pop()
        if id(one) in found:
            continue
        found[id(one)] = one
        left += [other for other in (one.__cause__, one.__context__) if other is not None]
        if isinstance(one, BaseExceptionGroup):
            left += cast("BaseExceptionGroup[BaseException]", one).exceptions
    return list(found.values())


async def leaving_nothing(work: Awaitable[T]) -> T:
    """What the work gives. However it ends, no error keeps what the work had in its hands (`forget_frames`)."""
    try:
        return await work
    except BaseException as error:
        forget_frames(error)
        raise


class TaskGroup(asyncio.TaskGroup):
    """A task group whose error does not keep alive what it came through. `asyncio.TaskGroup` keeps an error in the very
    frames that the error's traceback leads to, and it knows the task it was opened in, which ends with that error."""

    async def __aexit__(
        self, et: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(et, exc, tb)
        except BaseException as error:
            forget_frames(error)
            del exc, tb
            raise
        finally:
            # It is over: nothing more can be asked of it.
            vars(self).clear()
            del self


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
        # Group and tasks hold the error, whose traceback holds this frame.
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

    def take(self) -> bool:
        """Takes a place if there is one now: `enter` without a coroutine."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    async def enter(self) -> None:
        """Takes a place."""
        if self.take():
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
