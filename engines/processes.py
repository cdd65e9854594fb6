"""How engine processes are started: forked from a process that has imported what they need, deaf to Ctrl-C,
and never alive without the process that started them.

An engine process that starts from nothing imports its runtime for most of its start, and shares no page with the next.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any


def preload(modules: Iterable[str]) -> bool:
    """Has a process of its own import modules, and returns at once. It does nothing else, so it has no threads and may
    be forked, which this process may not. The first call counts. Returns whether this was the first."""
    is_first = _forkserver()._forkserver_pid is None
    resource_tracker.ensure_running()  # it unblocks the signals it finds blocked
    with without_interrupts():
        multiprocessing.set_forkserver_preload(["cos.engines.preloaded", *modules])
        forkserver.ensure_running()
    return is_first


def drop_preloaded() -> None:
    """Ends the process of `preload`, even amid an import, while no other was forked from it. For a start that came to
    nothing: what reads this program's output would else wait for that process, too."""
    server = _forkserver()
    os.kill(server._forkserver_pid, signal.SIGKILL)
    server._stop()


def _forkserver() -> Any:
    return forkserver._forkserver  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]


class EngineProcess(ForkServerProcess):
    """A process that ends when the one that started it is gone, however it went."""

    prepare: Callable[[], None] | None = None
    """Called in the process before anything else is. A function of a module, so that it can be sent there."""

    def run(self) -> None:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        if self.prepare is not None:
            self.prepare()
        super().run()


class EngineContext(ForkServerContext):
    """Starts processes from the one that `preload` has started; each calls ``prepare`` first."""

    def __init__(self, prepare: Callable[[], None] | None = None) -> None:
        super().__init__()
        self._prepare = prepare

    def Process(self, *args: Any, **kwargs: Any) -> EngineProcess:  # pyright: ignore[reportIncompatibleVariableOverride]
        process = EngineProcess(*args, **kwargs)
        process.prepare = self._prepare
        return process


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def without_interrupts() -> Generator[None]:
    """Processes started within never see Ctrl-C, which a terminal sends to all: the searches under way need them, and
    it is this process that stops them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
