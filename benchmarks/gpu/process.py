"""A plan as a process: it stops on SIGTERM as on Ctrl-C, waits for no engine that is loaded in vain, and starts none
before the last one has given the GPU its memory back."""

import asyncio
import multiprocessing
import signal
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from cos.engines.memory import GIB, Memory, gpu_memories

T = TypeVar("T")

PATIENCE_S = 0.5
"""How long threads may go on when all is over."""
POLL_S = 0.2
FREED_S = 30.0
"""How long the memory of an engine that has stopped is waited for."""
SLACK_BYTES = GIB // 2


async def run_stoppable(work: Coroutine[Any, Any, T]) -> T:
    """What the work gives, in a loop of its own. SIGTERM cancels it. Afterwards the loop runs no more threads.

    Errors: CancelledError after SIGTERM.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    finally:
        await _end_threads(loop)
        loop.remove_signal_handler(signal.SIGTERM)


async def _end_threads(loop: asyncio.AbstractEventLoop) -> None:
    """Waits for what runs in threads. Engines that are being loaded cannot be interrupted, but their processes can."""
    ending = asyncio.ensure_future(loop.shutdown_default_executor())
    await asyncio.wait([ending], timeout=PATIENCE_S)
    while not ending.done():
        for child in multiprocessing.active_children():
            child.kill()
        await asyncio.wait([ending], timeout=POLL_S)


async def until_free(before: Mapping[int, Memory], most_s: float = FREED_S) -> None:
    """Waits until the GPUs have as much free memory as ``before``, or for so long. A driver takes the memory of a
    process back some time after the process has ended, and the next engine would get a smaller share."""
    loop = asyncio.get_running_loop()
    over = loop.time() + most_s
    while before and loop.time() < over:
        now = await asyncio.to_thread(gpu_memories)
        if all(gpu in now and now[gpu].free_bytes >= one.free_bytes - SLACK_BYTES for gpu, one in before.items()):
            return
        await asyncio.sleep(POLL_S)
