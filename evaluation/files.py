"""Files and folders that take their place when they are whole, and folders that one process writes to at a time."""

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from cos.search.errors import InputError

LOCK = "lock"
"""The file in a folder that says which process writes there: process and host; empty when none does."""


def take_lock(folder: Path) -> None:
    """Marks a folder as this process's own. The lock of a dead process of this machine is taken over.

    Errors: InputError when a run that may be alive holds it.
    """
    with _lock_file(folder) as file:
        held = _owner(file.read())
        if held is not None and _may_live(held):
            raise InputError(
                f"{folder} is in use by process {held['pid']} on {held['host']}; wait for it or stop it, "
                f"or, if it is gone, remove {folder / LOCK}",
                "runs",
            )
        file.seek(0)
        file.truncate()
        file.write(json.dumps(_self()))


def free_lock(folder: Path) -> None:
    """Marks a folder as nobody's, if it is this process's."""
    with _lock_file(folder) as file:
        if _owner(file.read()) == _self():
            file.seek(0)
            file.truncate()


@contextmanager
def _lock_file(folder: Path) -> Generator[TextIO]:
    """The lock file, nobody else reading or writing it. (The kernel's lock is held for this moment only: held all the
    time, it would live on in forked children.)"""
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        yield file


def _owner(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
        return {"pid": int(found["pid"]), "host": str(found["host"]), "started": found["started"]}
    except (ValueError, KeyError, TypeError):
        return None


def _self() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": _start_of(os.getpid())}


def _may_live(held: Mapping[str, Any]) -> bool:
    if held["host"] != socket.gethostname():
        return True
    try:
        os.kill(held["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _start_of(held["pid"]) == held["started"]


def _start_of(pid: int) -> str | None:
    """When a process began, in the kernel's ticks: tells it from a later one of the same number. None off Linux."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


@contextmanager
def replacing(path: Path) -> Generator[TextIO]:
    """A text file that takes the place of ``path`` when it is whole, and never before."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(path: Path) -> Generator[Path]:
    """A folder that takes the place of ``path`` when it is whole. Killed between the old one's removal and the new
    one's renaming, the new one is left next to it as ``.<name>.partial``."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if path.exists():
        shutil.rmtree(path)
    os.replace(partial, path)
