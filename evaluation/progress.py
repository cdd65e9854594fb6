"""What is printed to stderr while work goes on and when it has ended, and many pieces of work side by side."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

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


def bar_of(label: str, total: int, done: int) -> tqdm[Any]:
    """A progress bar on stderr that begins where an earlier run stopped."""
    interval_s = 0.1 if sys.stderr.isatty() else LOG_INTERVAL_S
    return tqdm(total=total, initial=done, desc=label, file=sys.stderr, mininterval=interval_s)


def tell(label: str, outcome: Mapping[str, Any]) -> None:
    """A stage's summary, one line on stderr."""
    print(f"{label}: " + ", ".join(f"{name} {value}" for name, value in outcome.items()), file=sys.stderr)  # noqa: T201
