"""Stored searches: one JSON file a search, each picture once, for training to read (`docs/traces.md`).

    DIR/<date>/<id>.json         date: UTC, id: the reply's
    DIR/images/<digest>.png      the decoded picture, never the bytes that were sent

A file is written under another name and renamed: it is there whole or not at all. Storing happens in a thread of its
own, after the reply is made; what goes wrong is logged and counted, and no request ever hears of it.
"""

import asyncio
import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cos.search.errors import InputError
from cos.search.result import Result
from cos.search.types import Picture
from cos.wire.job import Job

logger = logging.getLogger(__name__)

MOST_WAITING = 256
"""Traces that may wait for the disk; a disk that falls behind loses further ones instead of filling the memory."""
IMAGES = "images"

Status = Literal["stored", "failed"]
"""What became of a trace."""


class TraceStore:
    """Writes traces into a folder, one at a time."""

    def __init__(self, folder: Path, policy: str, prm: str | None, count: Callable[[Status], None]) -> None:
        """``count`` hears what became of each. Errors: InputError when the folder cannot be written to."""
        self._folder = folder.expanduser()
        self._policy, self._prm, self._count = policy, prm, count
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="traces")
        try:
            (self._folder / IMAGES).mkdir(parents=True, exist_ok=True)
            _replace(self._folder / ".writable", b"")
            (self._folder / ".writable").unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"--trace-dir {folder} cannot be written to: {error.strerror}; give another folder", "trace_dir"
            ) from error

    def put(self, job: Job, result: Result, grammar: str) -> None:
        """Has a finished search stored, soon. ``grammar``: the name of the policy's. Raises nothing."""
        if not self._waiting.acquire(blocking=False):
            logger.error("trace %s was not stored: %d others wait for the disk", job.id, MOST_WAITING)
            self._count("failed")
            return
        try:
            done = self._thread.submit(self._store, job, result, grammar, datetime.now(UTC))
        except RuntimeError:
            logger.error("trace %s was not stored: the server has stopped", job.id)
            self._waiting.release()
            self._count("failed")
            return
        # It is called by the thread, which is to log under the request's id.
        context = copy_context()
        done.add_done_callback(lambda done: context.run(self._note, job.id, done))

    def _store(self, job: Job, result: Result, grammar: str, ended: datetime) -> None:
        question = job.question
        trace = job.trace(result, ended=ended, file_of=_file_of, policy=self._policy, grammar=grammar, prm=self._prm)
        for picture in question.all_pictures:
            file = self._folder / _file_of(picture)
            if not file.exists():
                _replace(file, partial(picture.image.save, format="PNG"))
        day = self._folder / ended.date().isoformat()
        day.mkdir(parents=True, exist_ok=True)
        _replace(day / f"{job.id}.json", trace.model_dump_json().encode())

    def _note(self, name: str, done: "Future[None]") -> None:
        self._waiting.release()
        if (error := done.exception()) is not None:
            # What the disk says names a file; what anything else says may quote the search.
            reason = error if isinstance(error, OSError) else type(error).__name__
            logger.error("trace %s was not stored: %s", name, reason)
        self._count("stored" if error is None else "failed")

    async def close(self) -> None:
        """Returns when all that waits has been written."""
        await asyncio.to_thread(self._thread.shutdown)


def _file_of(picture: Picture) -> str:
    return f"{IMAGES}/{picture.digest}.png"


def _replace(path: Path, content: bytes | Callable[[Path], Any]) -> None:
    """Writes a file under another name, then renames it: it is there whole or not at all."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        if isinstance(content, bytes):
            beside.write_bytes(content)
        else:
            content(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
