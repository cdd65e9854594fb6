"""What is looked at before a stage's first step: all rows, their pictures, their lengths.

A line that is no row, a picture that is missing or cannot be read, and a row that is too long are reported together,
each by file and line. They are an error, or, with ``--skip-bad``, left out, counted, logged and listed in the stage's
folder.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from cos.evaluation.failures import named, of_row
from cos.evaluation.files import replacing
from cos.evaluation.progress import LOG_INTERVAL_S
from cos.search.errors import CosError, InputError
from cos.training.config.recipe import StageConfig
from cos.training.data.formats import reader_of
from cos.training.data.problems import read_problems
from cos.training.data.rows import ChainRow, PairRow, ProblemRow, read_rows
from cos.training.data.sources import FileKeys, paths_of
from cos.training.runs.folder import SKIPPED, StageContext

Row = TypeVar("Row", ProblemRow, ChainRow, PairRow)
FileRow = TypeVar("FileRow", ChainRow, PairRow)

MOST_LISTED = 20
"""How many faults an error and the log list; the rest are counted."""


class Intake:
    """The rows that a stage takes in, and what is wrong with the others."""

    def __init__(self, context: StageContext) -> None:
        self._context = context
        self._places: dict[int, str] = {}
        self._kept: list[ProblemRow | ChainRow | PairRow] = []
        self._sources: dict[int, FileKeys] = {}
        self.faults: list[str] = []
        """What is wrong, a sentence each, by file and line."""
        self.sizes: dict[str, tuple[int, int]] = {}
        """Width and height of every picture that was looked at, pixels."""
        self._reported = 0
        self.read = 0
        """Rows that were read: good ones and bad ones."""

    @property
    def facts(self) -> dict[str, int]:
        """For ``done.json``: ``rows`` that were taken and ``skipped`` ones; nothing where no file was read."""
        return {"rows": self.read - len(self.faults), "skipped": len(self.faults)} if self.read else {}

    def rows_of(self, sources: Iterable[FileKeys], kind: type[FileRow], images: Path | None = None) -> list[FileRow]:
        """The rows of files as a recipe names them; ``images`` as `read_rows` has it, for files that name none.

        Errors: InputError for a file that cannot be read at all.
        """
        found: list[FileRow] = []
        for one in sources:
            bad, places = list[str](), list[str]()
            file, own = (
                self._context.resolve(one.path),
                images if one.images is None else self._context.resolve(one.images),
            )
            how: Any = {"skip_bad": True, "skipped": bad, "places": places, "images": own, "reader": reader_of(one)}
            rows = list(read_rows(file, kind, **how))
            self._note(rows, places, bad)
            self._sources |= dict.fromkeys(map(id, rows), one)
            found += rows
        return found

    def source_of(self, row: ChainRow | PairRow) -> FileKeys:
        """Where a row of `rows_of` was read."""
        return self._sources[id(row)]

    def problems_of(self, paths: Iterable[str], images: Path | None = None) -> list[ProblemRow]:
        """The problems of files of problems or chains, each once.

        Errors: as `cos.training.data.problems.read_problems`.
        """
        bad, places = list[str](), list[str]()
        rows = read_problems(map(self._context.resolve, paths), skipped=bad, places=places, images=images)
        self._note(rows, places, bad)
        return rows

    def _note(self, rows: Sequence[ProblemRow | ChainRow | PairRow], places: Sequence[str], bad: Sequence[str]) -> None:
        self._kept += rows  # an object's identity is its own only while it lives
        self._places |= {id(row): place for row, place in zip(rows, places, strict=True)}
        self.faults += bad
        self.read += len(rows) + len(bad)

    def seen(self, rows: Sequence[Row]) -> list[Row]:
        """The rows whose picture can be read, or that have none. Errors: StageError naming the row for what no reader
        foresaw."""
        images = dict.fromkeys(image for row in rows if (image := problem_of(row).image) is not None)
        sizes = self._context.ranks.shared([*images], lambda part: _in_threads(part, look_at))
        looked = dict(zip(images, sizes, strict=True))
        self.sizes |= {image: found for image, found in looked.items() if isinstance(found, tuple)}
        return self._sifted(rows, lambda row: _fault(row, looked.get(problem_of(row).image or "")))

    def fitting(self, rows: Sequence[Row], tokens: Callable[[Row], int], limit: int, whose: str) -> list[Row]:
        """The rows of at most ``limit`` tokens; ``whose`` limit that is, for the message."""

        def too_long(row: Row) -> str | None:
            found = tokens(row)
            return None if found <= limit else f"{found} tokens, more than {whose} {limit}"

        return self._sifted(rows, too_long)

    def _sifted(self, rows: Sequence[Row], fault: Callable[[Row], str | None]) -> list[Row]:
        good: list[Row] = []
        for row in rows:
            found = fault(row)
            if found is None:
                good.append(row)
            else:
                place = self._places.get(id(row))
                self.faults.append(": ".join(filter(None, (place, of_row(row.id), found))))
        return good

    def settle(self, what: str) -> None:
        """Reports what was found since the last time.

        Errors: InputError naming the first faults and their number, unless bad rows are to be skipped; and when no row
        is left. ``what``: rows of what, for the message.
        """
        new = self.faults[self._reported :]
        self._reported = len(self.faults)
        if new and not self._context.skip_bad:
            raise InputError(
                f"{len(self.faults)} of {self.read} {what} cannot be used:\n  "
                + "\n  ".join(_first(new))
                + "\nMend or remove them, or give --skip-bad to leave them out",
                "data",
            )
        if new and self._context.ranks.is_first:
            listed = "\n  ".join(_first(new))
            logging.getLogger(__name__).warning("%d of %d %s are skipped:\n  %s", len(new), self.read, what, listed)
            with replacing(self._context.folder / SKIPPED) as file:
                file.writelines(f"{fault}\n" for fault in self.faults)
        if self.read and len(self.faults) >= self.read:
            raise InputError(f"all {self.read} {what} had to be skipped; the first: {self.faults[0]}", "data")


def chains_of(
    sources: Sequence[FileKeys], intake: Intake, *, images: Path | None = None, pictures: bool = True
) -> list[ChainRow]:
    """The chains of a stage's files, looked through. ``images`` as `read_rows` has it; ``pictures``: whether the stage
    reads them.

    Errors: InputError for files that cannot be read, hold no chain, or hold bad ones that are not to be skipped.
    """
    found = _taken(sources, ChainRow, intake, "chains", images, pictures=pictures)
    if not found:
        raise InputError(f"{', '.join(paths_of(sources))}: there is no chain in it", "chains")
    return found


def pairs_of(sources: Sequence[FileKeys], intake: Intake) -> list[PairRow]:
    """The pairs of a stage's files, looked through. Errors: as `chains_of`."""
    found = _taken(sources, PairRow, intake, "pairs", None, pictures=True)
    if not found:
        raise InputError(
            f"{', '.join(paths_of(sources))}: there is no pair to train on; lower the stage `pairs`' gap, or sample "
            "more chains",
            "pairs",
        )
    return found


def _taken(
    sources: Sequence[FileKeys],
    kind: type[FileRow],
    intake: Intake,
    what: str,
    images: Path | None,
    *,
    pictures: bool,
) -> list[FileRow]:
    before = intake.read
    found = intake.rows_of(sources, kind, images)
    rows = intake.seen(found) if pictures else found
    intake.settle(what)
    if not rows and intake.read > before:
        raise InputError(
            f"{', '.join(paths_of(sources))}: all {intake.read - before} {what} had to be skipped; the last: "
            f"{intake.faults[-1]}",
            "data",
        )
    return rows


def reads_pictures(stage: StageConfig) -> bool:
    """Whether a stage reads the pictures of its chains."""
    match stage.stage:
        case "label":
            return {*stage.sources} != {"exact"}
        case "pairs":
            return stage.prm is not None and stage.reward != "outcome"
        case "evaluate":
            return not stage.stored_scores
        case _:
            return True


def problem_of(row: ProblemRow | ChainRow | PairRow) -> ProblemRow:
    """What a row asks."""
    return row if isinstance(row, ProblemRow) else row.problem


Look = tuple[int, int] | str | CosError
"""Width and height of a picture in pixels, why it cannot be read, or what went wrong that no reader foresaw. (An
InputError cannot be sent from process to process.)"""


def look_at(image: str) -> Look:
    """A picture's size by the reader that training has. Errors are given back: a StopIteration must not leave a thread
    as it is."""
    from cos.training.data import row_data

    try:
        return row_data.read_picture(image).size
    except InputError as error:
        return str(error)
    except Exception as error:
        return named(f"picture {image!r}", error)


def _fault(row: Row, found: Look | None) -> str | None:
    if isinstance(found, CosError):
        raise named(of_row(row.id), found) from found
    return found if isinstance(found, str) else None


Found = TypeVar("Found")


def _in_threads(items: Sequence[str], work: Callable[[str], Found]) -> list[Found]:
    """Pictures are decoded without Python's lock, so that threads help."""
    threads = max(1, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(threads) as pool:
        bar = tqdm(
            pool.map(work, items), total=len(items), desc="pictures", mininterval=LOG_INTERVAL_S, delay=LOG_INTERVAL_S
        )
        return list(bar)


def _first(faults: Sequence[str]) -> list[str]:
    rest = len(faults) - MOST_LISTED
    return [*faults[:MOST_LISTED], *([f"and {rest} more"] if rest > 0 else [])]


def training_facts(history: Sequence[Mapping[str, float]], steps: int) -> dict[str, object]:
    """For ``done.json``: the steps that were done, and the loss that was logged first and last (of a run too short for
    a log line, its mean as both)."""
    logged = [entry["loss"] for entry in history if "loss" in entry]
    logged = logged or [entry["train_loss"] for entry in history if "train_loss" in entry]
    return {"steps": steps, "losses": {"first": logged[0], "last": logged[-1]} if logged else {}}
