"""Work that ends early: when its client goes away, or when the server must stop.

Asking ``request.is_disconnected()`` now and then would find out too late: the work is raced against the disconnect
message itself. Cancelling the work closes the search, which aborts its engine requests.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from cos.search.tasks import leaving_nothing
from cos.server.errors import ClientGone, Draining

T = TypeVar("T")


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; the request's body must have been read before. Errors: ClientGone, and the work's own."""
    return await _unless(_disconnect(receive), ClientGone("the client closed the connection"), work)


async def unless_halted(halt: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """The work's result. Errors: Draining once ``halt`` is set, and the work's own."""
    return await _unless(_set(halt), Draining("the server shut down before the search ended"), work)


async def _unless(stop: Coroutine[Any, Any, None], error: Exception, work: Coroutine[Any, Any, T]) -> T:
    stopped, task = asyncio.create_task(stop), asyncio.create_task(leaving_nothing(work))
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise error
        return task.result()
    finally:
        try:
            await cancelled(stopped, task)
        finally:
            # They hold an error, or are one, whose traceback holds this frame.
            del stopped, task, error


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks and waits until they have ended, whatever they end with."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _set(halt: asyncio.Event) -> None:
    await halt.wait()
