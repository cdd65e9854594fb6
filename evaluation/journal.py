"""A stage's finished work, one JSON line an item while the stage runs: kill -9 loses no more than what is in flight.

The first line says what the work was done with: a stage that goes on with other settings is refused. A line that was
cut off by a kill is dropped when the journal is opened again.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from cos.search.errors import InputError
from cos.search.tasks import together

T = TypeVar("T")


class Journal:
    """Finished items by key, in memory and in a file that only grows."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Opens a journal, or starts it. ``settings``: what the work depends on, as JSON can hold it.

        Errors: InputError when the file was written with other settings or is damaged before its last line.
        """
        self.path = path
        self.done: dict[str, dict[str, Any]] = {}
        """What is finished, by key."""
        wanted = cast("dict[str, Any]", json.loads(json.dumps(settings)))
        whole = self._read(wanted) if path.exists() else 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._file.truncate(whole)
        if whole == 0:
            self._append(wanted)

    def _read(self, wanted: dict[str, Any]) -> int:
        """Takes over the whole lines; returns how many bytes they have."""
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:whole].splitlines(), start=1):
            try:
                found = json.loads(line)
            except ValueError as error:
                raise InputError(f"{self.path}:{number}: not JSON ({error}); delete the file", "folder") from error
            if number > 1:
                if not isinstance(found, dict) or not {"key", "value"} <= found.keys():
                    raise InputError(f"{self.path}:{number}: no line of a journal; delete the file", "folder")
                self.done[found["key"]] = found["value"]
            elif found != wanted:
                differ = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
                differences = ", ".join(
                    f"{key} was {found.get(key)!r} and is {wanted.get(key)!r}" for key in sorted(differ)
                )
                raise InputError(
                    f"{self.path}: begun with other settings ({differences}); restore them or delete it", "folder"
                )
        return whole

    def add(self, key: str, value: dict[str, Any]) -> None:
        """Writes one finished item. Errors: OSError of the file, a full disk among them."""
        self._append({"key": key, "value": value})
        self.done[key] = value

    def _append(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


async def work_off(items: Iterable[T], work: Callable[[T], Awaitable[None]], workers: int) -> None:
    """``work`` of every item, by ``workers`` side by side, in the items' order; items are taken when there is room.

    Errors: the first one of ``work``, after the others have been cancelled.
    """
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)
            await asyncio.sleep(0)

    await together(worker() for _ in range(workers))
