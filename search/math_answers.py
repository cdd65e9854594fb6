"""Answers beyond `cos.search.answers`, compared by math-verify in processes of their own.

It imports SymPy, may think for minutes and uses signals for its own limits, which work in a main thread alone: so it
runs in worker processes without them, and a worker that takes too long is killed and replaced.
"""

import asyncio
import logging
import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import TimeoutError as TookTooLong
from types import TracebackType
from typing import Any, cast

from cos.search.answers import compare, plain

logger = logging.getLogger(__name__)

SECONDS = 3.0
"""Longest comparison."""
WORKERS = 2
REMEMBERED = 4096
"""Verdicts that are kept."""


class MathComparer:
    """Satisfies `cos.search.ports.Comparer`. An async context manager; no process starts before one is needed."""

    def __init__(
        self,
        seconds: float = SECONDS,
        workers: int = WORKERS,
        decide: Callable[[str, str], bool] | None = None,
    ) -> None:
        """``decide``: what runs in the workers, math-verify unless given."""
        self._seconds = seconds
        self._workers = workers
        self._decide = decide or by_math_verify
        self._pool: Any = None
        self._known: dict[frozenset[str], bool] = {}

    async def equal(self, one: str, other: str) -> bool:
        """Whether two answers say the same; what cannot be decided in time is taken for different."""
        verdict = compare(one, other)
        if verdict != "undecided":
            return verdict == "equal"
        key = frozenset((plain(one), plain(other)))
        if key not in self._known:
            if len(self._known) >= REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[key] = await self._ask(*sorted((one, other)))
        return self._known[key]

    async def _ask(self, one: str, other: str) -> bool:
        from pebble import ProcessExpired, ProcessPool

        if self._pool is None:
            self._pool = ProcessPool(
                max_workers=self._workers, context=multiprocessing.get_context("spawn"), initializer=prepare
            )
        try:
            return await asyncio.wrap_future(self._pool.schedule(self._decide, (one, other), timeout=self._seconds))
        except TookTooLong:
            logger.warning("answers %r and %r took longer than %g s to compare", one, other, self._seconds)
        except ProcessExpired as error:
            logger.warning("comparing answers %r and %r ended its process: %s", one, other, error)
        except Exception:
            # What a worker met, whatever it is, costs the verdict and never the search.
            logger.warning("answers %r and %r could not be compared", one, other, exc_info=True)
        return False

    async def __aenter__(self) -> "MathComparer":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()
            await asyncio.to_thread(pool.join)


def prepare() -> None:
    """Makes a worker ready: Ctrl-C is its owner's, and what takes long to import is there before a clock runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import math_verify  # noqa: F401  # pyright: ignore[reportUnusedImport]


def by_math_verify(one: str, other: str) -> bool:
    """math-verify's verdict, in either direction."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    how = (LatexExtractionConfig(), ExprExtractionConfig())

    def read(answer: str) -> list[Any]:
        marked = answer if answer.strip().startswith(("$", "\\(", "\\boxed")) else f"${answer}$"
        return parse(marked, extraction_config=how, parsing_timeout=cast(Any, None))

    first, second = read(one), read(other)
    return bool(verify(first, second, timeout_seconds=None) or verify(second, first, timeout_seconds=None))
