"""Work that ends early: when its client goes away.

Asking ``request.is_disconnected()`` now and then would find out too late: the work is raced against the disconnect
message itself. Cancelling the work closes the search, which aborts its engine requests.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from cos.search.tasks import leaving_nothing
from cos.server.errors import ClientGone

T = TypeVar("T")


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; the request's body must have been read before. Errors: ClientGone, and the work's own."""
    gone, task = asyncio.create_task(_disconnect(receive)), asyncio.create_task(leaving_nothing(work))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone("the client closed the connection")
        return task.result()
    finally:
        try:
            await cancelled(gone, task)
        finally:
            # The task holds the error, whose traceback holds this frame.
            del gone, task


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks and waits until they have ended, whatever they end with."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
