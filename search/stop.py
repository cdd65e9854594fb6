"""Ends searches early from outside: each answers with the best it has by then."""

import asyncio


class Stop:
    """Pulls in the deadlines of all searches that were given it."""

    def __init__(self) -> None:
        self.is_set = False
        self._deadlines: set[asyncio.Timeout] = set()

    def set(self) -> None:
        """Ends every search under way, and each that begins from now on. Call it in the event loop."""
        self.is_set = True
        for deadline in self._deadlines:
            _pull_in(deadline)

    def watch(self, deadline: asyncio.Timeout) -> None:
        """From now on this deadline is pulled in as soon as this is set. It must have been entered."""
        self._deadlines.add(deadline)
        if self.is_set:
            _pull_in(deadline)

    def forget(self, deadline: asyncio.Timeout) -> None:
        """The deadline's search is over."""
        self._deadlines.discard(deadline)


def _pull_in(deadline: asyncio.Timeout) -> None:
    if not deadline.expired():
        deadline.reschedule(asyncio.get_running_loop().time())
