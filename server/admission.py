"""Who may search now: at most so many at once, so many more in a queue, in the order in which they came."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Literal

from cos.server.errors import Draining, Overloaded

Refusal = Literal["queue_full", "queue_timeout", "draining"]
"""Why a search gets no place: nobody may wait any more, it has waited too long, or the server is shutting down."""


class Admission:
    """Places for searches. A search that got one keeps it until it ends."""

    def __init__(
        self, max_running: int, max_queued: int, on_refusal: Callable[[Refusal], None] = lambda reason: None
    ) -> None:
        """``on_refusal`` is called with the reason when a search gets no place."""
        self.running = 0
        self.queued = 0
        self.is_draining = False
        self.max_running = max_running
        self.max_queued = max_queued
        self._on_refusal = on_refusal
        self._places = asyncio.Semaphore(max_running)
        self._idle = asyncio.Event()
        self._idle.set()

    def refuse_if_full(self) -> None:
        """Errors: Overloaded when even the queue has no room. Asked before anything is done for a request."""
        if self._places.locked() and self.queued >= self.max_queued:
            self._on_refusal("queue_full")
            raise Overloaded(
                f"{self.running} searches run and {self.queued} wait, which is all this server takes "
                f"(--max-concurrent-searches {self.max_running}, --max-queued-searches {self.max_queued}); "
                "try again later"
            )

    @asynccontextmanager
    async def place(self, patience_s: float) -> AsyncGenerator[None]:
        """Holds a place, once there is one.

        Errors: Overloaded at once when the queue is full, or after ``patience_s`` in it; Draining.
        """
        await self._enter(patience_s)
        try:
            yield
        finally:
            self.running -= 1
            self._places.release()
            if self.running == 0:
                self._idle.set()

    async def _enter(self, patience_s: float) -> None:
        self._refuse_if_draining()
        self.refuse_if_full()
        self.queued += 1
        try:
            async with asyncio.timeout(patience_s):
                await self._places.acquire()
        except TimeoutError:
            self._on_refusal("queue_timeout")
            raise Overloaded(f"no place became free within {patience_s:g} s; try again later") from None
        finally:
            self.queued -= 1
        if self.is_draining:
            self._places.release()
        self._refuse_if_draining()
        self.running += 1
        self._idle.clear()

    def _refuse_if_draining(self) -> None:
        if self.is_draining:
            self._on_refusal("draining")
            raise Draining("the server is shutting down; try another one, or again later")

    async def drain(self, timeout_s: float) -> bool:
        """Lets nobody in any more; True when the last search ended in time."""
        self.is_draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
