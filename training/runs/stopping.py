"""Stopping on demand: a run that is stopped by SIGTERM, or by Ctrl-C, saves a checkpoint first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from cos.training.runs.ranks import Ranks

Begin = Callable[[int], None]
"""What a worker that reads ahead does first, given its number."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopOnSignal(TrainerCallback):
    """Ends training after the step in which any rank is asked to end, with a checkpoint of that step.

    Ranks get a signal at different moments, so they agree at the end of every step.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._stop_requested = False
        self.has_stopped = False
        """Whether training was ended before its time."""

    @contextmanager
    def listening(self) -> Generator[None]:
        """Takes the signals while it lasts. A second Ctrl-C interrupts at once, as ever.

        Outside the main thread there are no signals to take.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}

        def on_signal(number: int, frame: FrameType | None) -> None:
            del frame
            self._stop_requested = True
            if number == signal.SIGINT:
                signal.signal(number, before[signal.SIGINT])

        for number in SIGNALS:
            signal.signal(number, on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Asks for a checkpoint and the end, except after the last step, which has both."""
        if self._ranks.any(self._stop_requested) and state.global_step < state.max_steps:
            self.has_stopped = control.should_save = control.should_training_stop = True


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """Begins a worker that reads ahead and that no SIGTERM ends: some launchers send it to every process there is, and
    a worker that dies of it ends the run before its checkpoint. Workers end with the process that they read for."""

    begin: Begin | None

    def __call__(self, worker: int) -> None:
        """In the worker."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.begin is not None:
            self.begin(worker)
