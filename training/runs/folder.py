"""A stage's run folder: one run at a time, an end that is marked, a disk that is looked at before it is written to.

lock          who runs here: process and host; empty when nobody does
metrics.jsonl, checkpoint-<step>/, model/, *.jsonl     what the stage writes
stage.json    the keys and inputs that the stage was begun with (`cos.training.runs.digest`)
done.json     stage, commit, seed, digest, ranks, seconds, memory and outcome; only when the stage has ended well

Of several ranks (`cos.training.runs.ranks`) the first one locks, reads what decides and writes; the others wait for it.
"""

from __future__ import annotations

import errno
import json
import resource
import shutil
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from cos.evaluation.failures import StageError, of_stage
from cos.evaluation.files import free_lock, replacing, replacing_folder, take_lock
from cos.evaluation.provenance import commit
from cos.search.errors import InputError
from cos.training.runs.ranks import Ranks, is_lost

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DONE = "done.json"
MODEL = "model"
SKIPPED = "skipped.txt"
"""Rows that were left out and why, a line each, in the stage's folder."""
Leaks = Literal["error", "report"]
"""What becomes of data that serves two roles (`cos.training.data.splits`)."""
SPARE_BYTES = 64 << 20
"""What must stay free on the disk beside what is to be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """Where a stage works and under which conditions."""

    folder: Path
    """The stage's own folder."""
    runs: Path
    """The recipe's folder, which holds those of all stages."""
    seed: int = 0
    threads: int = 1
    """Compute threads."""
    skip_bad: bool = False
    """Whether bad JSONL lines are counted instead of refused."""
    mnist: Path = Path("runs/mnist")
    """Folder of the handwritten digits, fetched into it when they are missing."""
    leaks: Leaks = "error"
    """Whether data that serves two roles is an error, or reported and counted."""
    trial: bool = False
    """Whether a step is only tried: neither checkpoints nor the model are kept."""
    digest: str | None = None
    """Of the stage's keys and inputs (`cos.training.runs.digest`), for ``done.json``; None where nobody took it."""
    ranks: Ranks = field(default_factory=Ranks.of_environment, compare=False)
    """The processes that run this stage together."""

    @property
    def is_done(self) -> bool:
        """Whether the stage has ended well before."""
        return (self.folder / DONE).is_file()

    def resolve(self, path: str | Path) -> Path:
        """A path as a recipe gives it: what exists from here (or is absolute) as it is, all else below ``runs``."""
        path = Path(path).expanduser()
        below = self.runs / path
        return path if path.is_absolute() or (path.exists() and not below.exists()) else below

    def checkpoint(self, name: str) -> str:
        """A checkpoint as a recipe gives it: a folder as `resolve` finds it, what another stage writes (``sft/model``)
        whether it is there yet or not; all else is a hub name, or the embedded default's."""
        found = self.resolve(name)
        is_folder = found.exists() or Path(name).name == MODEL or name.startswith((".", "/", "~"))
        return str(found) if is_folder else name


class StageRun:
    """One run of a stage in its folder, as a context: holds the folder's lock, and marks the end by `finish`.

    Every rank enters, finishes and leaves.
    """

    def __init__(self, context: StageContext, stage: str) -> None:
        self._context = context
        self._stage = stage
        self._started = 0.0
        self._resumed = False

    def __enter__(self) -> StageRun:
        """Errors: InputError when another run holds the folder, naming its process and host."""
        self._resumed = self._context.ranks.first(self._take)
        self._started = time.monotonic()
        _reset_peak()
        return self

    def _take(self) -> bool:
        """Makes the folder this run's own; whether there are checkpoints of an earlier one."""
        folder = self._context.folder
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            take_lock(folder)
            # All rows are looked at again.
            (folder / SKIPPED).unlink(missing_ok=True)
        return any(folder.glob("checkpoint-*"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Frees the folder. Errors: InputError in place of the error of a full disk, StageError in place of a
        library's when another rank is gone."""
        ranks, folder = self._context.ranks, self._context.folder
        if ranks.is_first:
            free_lock(folder)
        if error is not None and is_disk_full(error):
            raise _full(folder) from error
        if error is not None and ranks.count > 1 and is_lost(error):
            raise StageError(
                f"{of_stage(folder.name)}: another of the {ranks.count} processes of this run has ended before this "
                f"one (number {ranks.number}); what it printed says why. The same command goes on from the last "
                "checkpoint"
            ) from error

    def finish(
        self,
        model: PreTrainedModel | None = None,
        processor: Any = None,
        outcome: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes ``model/`` if there is one, then ``done.json``: the stage has ended well.

        All are what the first rank has; the others wait until they are written, and may give none.
        """
        self._context.ranks.first(lambda: self._write(model, processor, dict(outcome or {})))

    def _write(self, model: PreTrainedModel | None, processor: Any, outcome: dict[str, Any]) -> None:
        folder = self._context.folder
        if model is not None and not self._context.trial:
            check_disk(folder, sum(p.numel() * p.element_size() for p in model.parameters()))
            with replacing_folder(folder / MODEL) as partial:
                model.save_pretrained(partial)
                if processor is not None:
                    processor.save_pretrained(partial)
        done = {
            "stage": self._stage,
            "commit": commit(),
            "seed": self._context.seed,
            "digest": self._context.digest,
            "ranks": self._context.ranks.count,
            "seconds": round(time.monotonic() - self._started, 1),
            "resumed": self._resumed,
            "peak_rss_mib": _peak_mib(),
            "peak_child_rss_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
            "outcome": outcome,
        }
        with replacing(folder / DONE) as file:
            file.write(json.dumps(done, indent=2) + "\n")


def check_disk(folder: Path, needed_bytes: int) -> None:
    """Errors: InputError when the disk of ``folder`` has less than that free (and a little more)."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + SPARE_BYTES:
        raise InputError(
            f"{folder}: {needed_bytes / 2**20:.0f} MiB are to be written, {SPARE_BYTES >> 20} MiB have to stay free, "
            f"and {free / 2**20:.0f} MiB are free on the disk; free some and run the same command again, it goes on "
            "from the last checkpoint",
            "runs",
        )


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one behind it, came of a disk without space (libraries tell it in their own ways)."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if not isinstance(cause, InputError) and "No space left on device" in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _full(folder: Path) -> InputError:
    return InputError(
        f"{folder}: the disk is full; nothing half-written was kept. Free some space and run the same command again, "
        "it goes on from the last checkpoint",
        "runs",
    )


@contextmanager
def disk_errors(folder: Path) -> Generator[None]:
    """Errors: InputError for a disk that is full or a folder that cannot be written to."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise _full(folder) from error
        raise InputError(f"{folder} cannot be written to: {error.strerror}; choose another runs folder", "runs") from (
            error
        )


def _reset_peak() -> None:
    """Lets the kernel measure this process's peak memory anew, where it can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return


def _peak_mib() -> int:
    """Peak resident memory of this process since `_reset_peak`, MiB (since its start where that is unknown)."""
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="utf-8").splitlines() if status.is_file() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
