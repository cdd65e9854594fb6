"""Where the wall time of a search goes: at each instant a search is in exactly one stage.

Work of one kind overlaps with work of others: candidates are drawn while others are read. What a search waits for is
told by precedence: it generates while any draw is in flight; else it scores while any read is; else it votes while
answers are compared. Where nothing is in flight it selects, or, before its engines have the question, opens. Stages add
up to the wall time by construction.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Literal

from msgspec import Struct

from cos.search.types import Path, Stages, Timings

Work = Literal["draw", "read", "compare", "open", "queue", "decode"]
"""What is waited for: a candidate from the policy, a score from the PRM, a verdict on answers, an engine that renders a
prompt, a place among the searches, the pixels of a picture."""

Outcome = Literal["done", "failed", "aborted"]
"""How work ended: with a result, with an error, or because nobody wanted it any more."""

_WORKS: tuple[Work, ...] = ("draw", "read", "compare", "queue", "decode", "open")
"""By precedence. The stage of a work has the work's place as its number; the last stage is that of none."""
_OPEN, _SELECT = 5, 6


class Interval(Struct, frozen=True, gc=False):
    """One finished piece of work."""

    kind: Work
    path: Path | None
    """The candidate that was drawn or read; None for work that is about no one candidate."""
    began: float
    """`time.perf_counter` seconds."""
    ended: float
    outcome: Outcome
    ahead: bool = False
    """Whether it was begun before it was decided that it is wanted."""


Listener = Callable[[Interval], None]
"""Hears of each interval as it ends. It is called in the midst of a search: it must be quick and raise nothing."""


class Stopwatch:
    """Times one search. ``listener`` hears of every piece of work; without one nothing is kept but the sums."""

    def __init__(self, listener: Listener | None = None) -> None:
        self._listener = listener
        self._hands = _Hands()
        self._laps = {work: _Lap(self._hands, number) for number, work in enumerate(_WORKS)}

    @property
    def started(self) -> float:
        """When it was started, `time.perf_counter` seconds."""
        return self._hands.started

    def during(self, work: Work, path: Path | None = None, *, ahead: bool = False) -> AbstractContextManager[None]:
        """Counts what happens inside as work under way, however it ends."""
        lap = self._laps[work]
        return lap if self._listener is None else _Told(lap, work, path, self._listener, ahead=ahead)

    def failed(self, work: Work) -> int:
        """Pieces of work that ended with an error."""
        return self._laps[work].failed

    def aborted(self, work: Work) -> int:
        """Pieces of work that nobody wanted any more."""
        return self._laps[work].aborted

    def stages(self) -> Stages:
        """The time spent in each stage by now."""
        return self.read(None).stages

    def read(self, first_candidate_at: float | None) -> Timings:
        """All times by now. ``first_candidate_at``: `time.perf_counter` seconds."""
        hands, now = self._hands, time.perf_counter()
        hands.pass_to(hands.stage, now)
        generate, score, vote, queue, decode, opening, select = hands.seconds
        return Timings(
            first_candidate_s=None if first_candidate_at is None else first_candidate_at - hands.started,
            total_s=now - hands.started,
            stages=Stages(queue, decode, opening, generate, score, vote, select),
        )


class _Hands:
    """What a stopwatch has measured. It knows neither stopwatch nor laps: no cycle outlives a search."""

    __slots__ = ("idle", "seconds", "since", "stage", "started", "under_way")

    def __init__(self) -> None:
        self.under_way = [0] * len(_WORKS)
        self.seconds = [0.0] * (len(_WORKS) + 1)
        self.idle = self.stage = _OPEN
        """The stage while nothing is under way."""
        self.started = self.since = time.perf_counter()

    def pass_to(self, stage: int, now: float) -> None:
        """Ends the present stage."""
        self.seconds[self.stage] += now - self.since
        self.stage, self.since = stage, now


class _Lap(AbstractContextManager[None]):
    """All work of one kind. It can be entered any number of times at once."""

    __slots__ = ("_hands", "_number", "aborted", "failed")

    def __init__(self, hands: _Hands, number: int) -> None:
        self._hands = hands
        self._number = number
        self.failed = self.aborted = 0

    def __enter__(self) -> None:
        hands, number = self._hands, self._number
        hands.under_way[number] += 1
        if number < hands.stage:
            hands.pass_to(number, time.perf_counter())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        hands, number = self._hands, self._number
        hands.under_way[number] -= 1
        if number == _OPEN:
            hands.idle = _SELECT
        if number == hands.stage and not hands.under_way[number]:
            left = (other for other, pieces in enumerate(hands.under_way) if pieces)
            hands.pass_to(next(left, hands.idle), time.perf_counter())
        if kind is not None:
            is_error = issubclass(kind, Exception)
            self.failed += is_error
            self.aborted += not is_error


class _Told(AbstractContextManager[None]):
    """One piece of work that a listener hears of."""

    __slots__ = ("_ahead", "_began", "_lap", "_listener", "_path", "_work")

    def __init__(self, lap: _Lap, work: Work, path: Path | None, listener: Listener, *, ahead: bool) -> None:
        self._ahead = ahead
        self._lap = lap
        self._work: Work = work
        self._path = path
        self._listener = listener
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()
        self._lap.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._lap.__exit__(kind, error, tb)
        outcome: Outcome = "done" if kind is None else "failed" if issubclass(kind, Exception) else "aborted"
        self._listener(Interval(self._work, self._path, self._began, time.perf_counter(), outcome, self._ahead))
