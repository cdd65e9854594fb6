"""Answers beyond `cos.search.answers`, compared by math-verify in processes of their own.

It imports SymPy, and may think for minutes: so it runs in worker processes, under a timer that interrupts it and leaves
the worker warm. A worker that cannot be interrupted is killed and replaced.
"""

import asyncio
import logging
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as TookTooLong
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, cast

from cos.search.answers import compare
from cos.search.ports import Pair

logger = logging.getLogger(__name__)

SECONDS = 3.0
"""Longest comparison."""
GRACE_SECONDS = 1.0
"""How much later a worker that did not stop is killed."""
WORKERS = 2
REMEMBERED = 4096
"""Verdicts that are kept."""

Decide = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class _Vote:
    """One vote's comparisons that wait for a worker."""

    waiting: deque[tuple[Pair, "asyncio.Future[bool | None]"]]


class MathComparer:
    """Satisfies `cos.search.ports.Comparer`. An async context manager; no process starts before one is needed, or
    `warm` is called.

    Votes take turns at the workers, and no vote holds them all while there are several.
    """

    def __init__(self, seconds: float = SECONDS, workers: int = WORKERS, decide: Decide | None = None) -> None:
        """``decide``: what runs in the workers, math-verify unless given."""
        self._seconds = seconds
        self._workers = workers
        self._decide = decide or by_math_verify
        self._pool: Any = None
        self._known: dict[Pair, bool] = {}
        self._free = workers
        self._votes: deque[_Vote] = deque()
        self._asking: set[asyncio.Task[None]] = set()

    async def warm(self) -> None:
        """Starts the workers and waits until each can compare."""
        await asyncio.gather(*(asyncio.wrap_future(self._started().schedule(_idle)) for _ in range(self._workers)))

    async def agree(self, pairs: Sequence[Pair]) -> list[bool | None]:
        """As in `cos.search.ports.Comparer`. Cancel it to give up what waits."""
        # One turn at a time for each share: a vote has at most all workers but one.
        todo: deque[tuple[Pair, asyncio.Future[bool | None]]] = deque()
        verdicts = [self._verdict(pair, todo) for pair in pairs]
        shares = [_Vote(todo) for _ in range(max(1, self._workers - 1))]
        self._votes.extend(shares if todo else ())
        self._dispatch()
        try:
            return [await verdict if isinstance(verdict, asyncio.Future) else verdict for verdict in verdicts]
        finally:
            todo.clear()

    def _verdict(
        self, pair: Pair, todo: deque[tuple[Pair, "asyncio.Future[bool | None]"]]
    ) -> "bool | asyncio.Future[bool | None]":
        verdict = compare(*pair)
        if verdict != "undecided":
            return verdict == "equal"
        key = _key(pair)
        if key in self._known:
            return self._known[key]
        future: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        todo.append((pair, future))
        return future

    def _dispatch(self) -> None:
        """Gives free workers to the votes in turn."""
        while self._free and self._votes:
            vote = self._votes.popleft()
            if not vote.waiting:
                continue
            pair, future = vote.waiting.popleft()
            self._free -= 1
            task = asyncio.create_task(self._serve(vote, pair, future))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _serve(self, vote: _Vote, pair: Pair, future: "asyncio.Future[bool | None]") -> None:
        verdict = None
        try:
            verdict = await self._ask(*sorted(pair))
            if verdict is not None:
                if len(self._known) >= REMEMBERED:
                    del self._known[next(iter(self._known))]
                self._known[_key(pair)] = verdict
        finally:
            if not future.done():
                future.set_result(verdict)
            self._free += 1
            self._votes.append(vote)
            self._dispatch()

    async def _ask(self, one: str, other: str) -> bool | None:
        """A worker's verdict; None where it had too little time, or its process ended."""
        from pebble import ProcessExpired

        # What was answered is nobody's to read in a log.
        sizes = len(one), len(other)
        try:
            return await asyncio.wrap_future(
                self._started().schedule(
                    _timed, (self._decide, one, other, self._seconds), timeout=self._seconds + GRACE_SECONDS
                )
            )
        except (TookTooLong, _Late):
            logger.warning("answers of %d and %d characters took longer than %g s to compare", *sizes, self._seconds)
            return None
        except ProcessExpired as error:
            logger.warning("comparing answers of %d and %d characters ended its process: %s", *sizes, error)
            return None
        except RuntimeError as error:
            # The pool itself is broken or closed: that says nothing of the answers.
            logger.warning("answers of %d and %d characters could not be compared: %s", *sizes, error)
            return None
        except Exception:
            # What a worker met, whatever it is, costs the verdict and never the search.
            logger.warning("answers of %d and %d characters could not be compared", *sizes, exc_info=True)
            return False

    def _started(self) -> Any:
        from pebble import ProcessPool

        if self._pool is None:
            self._pool = ProcessPool(
                max_workers=self._workers, context=multiprocessing.get_context("spawn"), initializer=prepare
            )
        return self._pool

    async def __aenter__(self) -> "MathComparer":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._votes.clear()
        for task in [*self._asking]:
            task.cancel()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()
            await asyncio.to_thread(pool.join)


class _Late(BaseException):
    """The timer rang. No ordinary exception, as math-verify catches those."""


def _ring(number: int, frame: FrameType | None) -> None:
    raise _Late


def _timed(decide: Decide, one: str, other: str, seconds: float) -> bool:
    signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return decide(one, other)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _idle() -> None:
    """Comes back once a worker is ready."""
    import time

    # Long enough that the next of these goes to another worker.
    time.sleep(0.2)


def _key(pair: Pair) -> Pair:
    one, other = sorted(pair)
    return one, other


def prepare() -> None:
    """Makes a worker ready: Ctrl-C is its owner's, and what takes long to import is there before a clock runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # It warns at every comparison that its own time limits are off: ours is in force.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    by_math_verify("x", "x+1")


def by_math_verify(one: str, other: str) -> bool:
    """math-verify's verdict, in either direction."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    how = (LatexExtractionConfig(), ExprExtractionConfig())

    def read(answer: str) -> list[Any]:
        marked = answer if answer.strip().startswith(("$", "\\(", "\\boxed")) else f"${answer}$"
        return parse(marked, extraction_config=how, parsing_timeout=cast(Any, None))

    first, second = read(one), read(other)
    return bool(verify(first, second, timeout_seconds=None) or verify(second, first, timeout_seconds=None))
