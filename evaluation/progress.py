"""Many searches side by side, with a progress bar on stderr."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from tqdm import tqdm

from cos.search.tasks import together

T = TypeVar("T")
R = TypeVar("R")

LOG_INTERVAL_S = 30.0
"""How often the bar is printed where stderr is a file."""


async def side_by_side(work: Callable[[T], Awaitable[R]], items: Sequence[T], concurrency: int, label: str) -> list[R]:
    """``work`` of every item, at most ``concurrency`` at once; results in the items' order.

    Errors: the first one of ``work``, after the others have been cancelled.
    """
    gate = asyncio.Semaphore(concurrency)
    interval_s = 0.1 if sys.stderr.isatty() else LOG_INTERVAL_S
    with tqdm(total=len(items), desc=label, file=sys.stderr, mininterval=interval_s) as bar:

        async def one(item: T) -> R:
            async with gate:
                result = await work(item)
            bar.update()
            return result

        return await together(one(item) for item in items)
