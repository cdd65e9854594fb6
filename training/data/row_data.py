"""Rows as training samples; a chain is encoded and its picture read when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from cos.engines.pictures import of_file, pixels, read_file
from cos.evaluation.failures import naming, of_row
from cos.search.errors import InputError
from cos.training.config.keys import TrainingKeys
from cos.training.data.rows import ChainRow, ProblemRow, Source
from cos.training.learning.encode import Collator, Sample, Turn, TurnEncoder
from cos.training.runs.folder import StageContext

Write = Callable[[ChainRow], Turn]


class RowData(Dataset[Sample]):
    """Chains as ``write`` encodes them."""

    def __init__(self, rows: Sequence[ChainRow], write: Write) -> None:
        self.rows, self._write = rows, write

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        row = self.rows[index]
        with naming(of_row(row.id)):
            return Sample(picture_of(row.problem), row.problem.question, self._write(row), row.id)


def collator_of(processor: Any, keys: TrainingKeys, context: StageContext) -> Collator:
    """What makes batches of a stage's samples. Errors: InputError as `Collator`.

    Several processes have to run the same layers, and a loss has to reach a weight that is trained: there tower and
    projector are run for a batch without pictures, too.
    """
    looks = context.ranks.count > 1 or not keys.train_text
    return Collator(processor, keys.length_buckets, keys.max_tokens, always_looks=looks)


def imitated(rows: Sequence[ChainRow], encoder: TurnEncoder) -> RowData:
    """Gold chains for SFT."""
    return RowData(rows, lambda row: encoder.chain(row.steps, row.answer))


def judged(
    rows: Sequence[ChainRow], encoder: TurnEncoder, source: Source, *, soft: bool, until_error: bool = False
) -> RowData:
    """Chains for a PRM, by the labels of one source; chains without them are left out.

    ``until_error``: no tag behind a chain's first bad one is taught.

    Errors: InputError when no chain has labels of that source.
    """
    labelled = [row for row in rows if source in row.labels]
    if not labelled:
        others = sorted({other for row in rows for other in row.labels})
        have = ", ".join(others) or "none at all"
        fix = f"set labels: {others[0]}" if others else "run the stage `label`"
        raise InputError(f"none of {len(rows)} chains has labels by {source!r} (they have {have}); {fix}", "labels")

    def write(row: ChainRow) -> Turn:
        return encoder.judged(row.steps, row.answer, taught_labels(row, source, soft=soft, until_error=until_error))

    return RowData(labelled, write)


def taught_labels(row: ChainRow, source: Source, *, soft: bool, until_error: bool) -> list[float | None]:
    """P(good) of each tag; None for one that is not taught."""
    tags = row.labels[source]
    bad = (place for place, tag in enumerate(tags) if tag is not None and not tag.hard)
    last = next(bad, len(tags)) if until_error else len(tags)
    return [
        None if tag is None or place > last else tag.soft if soft else float(tag.hard) for place, tag in enumerate(tags)
    ]


def good_to_bad(rows: Sequence[ChainRow], source: Source, *, soft: bool, until_error: bool) -> float:
    """How much heavier a bad tag has to be for good and bad ones to count the same.

    Errors: InputError when there are none of one kind.
    """
    found = [
        label
        for row in rows
        if source in row.labels
        for label in taught_labels(row, source, soft=soft, until_error=until_error)
        if label is not None
    ]
    good, bad = sum(found), sum(1 - label for label in found)
    if not (good and bad):
        raise InputError(f"{good:g} tags are good and {bad:g} bad; such labels cannot be balanced", "balanced")
    return good / bad


def picture_of(problem: ProblemRow) -> Image.Image | None:
    """A problem's picture; None where it has none. Errors: InputError naming the file."""
    return None if problem.image is None else read_picture(problem.image)


def read_picture(path: str) -> Image.Image:
    """The RGB picture that a server would see. Errors: InputError naming the file."""
    return pixels(read_file(path), of_file(path))
