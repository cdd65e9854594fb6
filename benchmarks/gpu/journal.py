"""What a plan has measured so far, on disk after each measurement."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from cos.evaluation.files import replacing
from cos.evaluation.provenance import Facts
from cos.search.errors import InputError

logger = logging.getLogger(__name__)

Status = Literal["done", "failed", "cut", "left_out"]
"""It came to its end, it met an error, the time was over or the plan interrupted while it ran, or it did not begin."""


class Journal:
    """Runs measurements one by one and keeps what they find. A measurement that fails leaves the others alone."""

    def __init__(
        self,
        path: Path,
        head: Facts,
        pairs: Sequence[str],
        measurements: Sequence[str],
        *,
        wanted: Sequence[str],
        limit_s: float,
    ) -> None:
        """``head``: what is told of the whole run. ``wanted``: the measurements that are to be made.

        Every pair has an entry for each measurement from the beginning. Errors: InputError for a path that cannot be
        written to.
        """
        self._path = path
        self._wanted = frozenset(wanted)
        self._limit_s = limit_s
        self._began = time.monotonic()
        self._entries = {pair: {name: self._ahead(name) for name in measurements} for pair in pairs}
        self._head = head
        try:
            self._write()
        except OSError as error:
            raise InputError(
                f"--out {path}: it cannot be written: {error.strerror}; give a file in a folder that is there", "out"
            ) from error

    def _ahead(self, name: str) -> dict[str, Any]:
        """The entry of a measurement that has not begun."""
        return _left_out("it was not reached" if self.wants(name) else "it was not asked for")

    @property
    def left_s(self) -> float:
        """Seconds until the limit."""
        return self._began + self._limit_s - time.monotonic()

    @property
    def facts(self) -> Facts:
        """All of it."""
        spent_s = round(time.monotonic() - self._began, 1)
        return {**self._head, "limit_s": self._limit_s, "spent_s": spent_s, "pairs": self._entries}

    def wants(self, *names: str) -> bool:
        """Whether any of these measurements is to be made."""
        return not self._wanted.isdisjoint(names)

    async def measure(
        self, pair: str, name: str, work: Callable[[], Awaitable[Facts]], *, needed: bool = False
    ) -> bool:
        """Makes a measurement that is wanted, within the time that is left. Whether it came to its end.

        ``needed``: made even if it is not wanted, because others are.
        """
        if not (needed or self.wants(name)):
            self._enter(pair, name, _left_out("it was not asked for"))
            return False
        if self.left_s <= 0:
            self._enter(pair, name, _left_out("the time was over"))
            return False
        began = time.monotonic()
        entry: dict[str, Any]
        limit = asyncio.timeout(self.left_s)
        try:
            async with limit:
                facts = await work()
                json.dumps(facts, allow_nan=False)  # a number that is none spoils this entry alone
                entry = {"status": "done", "facts": facts}
        except TimeoutError as error:
            entry = {"status": "cut"} if limit.expired() else _failed(error)
        except asyncio.CancelledError:
            seconds = round(time.monotonic() - began, 3)
            self._enter(pair, name, {"status": "cut", "why": "it was interrupted", "seconds": seconds})
            raise
        except Exception as error:
            entry = _failed(error)
        self._enter(pair, name, {**entry, "seconds": round(time.monotonic() - began, 3)})
        return entry["status"] == "done"

    def leave_out(self, pair: str, names: Sequence[str], because_of: str) -> None:
        """Says that measurements were not made because another one was not."""
        entry = self._entries[pair][because_of]
        why = f"{because_of}: {entry.get('error') or entry.get('why') or 'the time was over while it ran'}"
        for name in names:
            self._entries[pair][name] = _left_out(why)
        self._keep()

    def _enter(self, pair: str, name: str, entry: dict[str, Any]) -> None:
        self._entries[pair][name] = entry
        self._keep()

    def _keep(self) -> None:
        """A disk that is full ends nothing: it may have room by the next time, and all is printed at the end."""
        try:
            self._write()
        except OSError as error:
            logger.warning("%s could not be written: %s", self._path, error.strerror)

    def _write(self) -> None:
        with replacing(self._path) as file:
            file.write(json.dumps(self.facts, indent=1, allow_nan=False) + "\n")


def _failed(error: Exception) -> dict[str, Any]:
    return {"status": "failed", "error": str(error) or repr(error)}


def _left_out(why: str) -> dict[str, Any]:
    return {"status": "left_out", "why": why}
