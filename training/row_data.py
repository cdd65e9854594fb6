"""Rows as training samples; a chain is encoded and its picture read when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image
from torch.utils.data import Dataset

from cos.engines.pictures import of_file, pixels, read_file
from cos.search.errors import InputError
from cos.training.encode import Sample, Turn, TurnEncoder
from cos.training.failures import naming, of_row
from cos.training.rows import ChainRow, Source

Write = Callable[[ChainRow], Turn]


class RowData(Dataset[Sample]):
    """Chains as ``write`` encodes them."""

    def __init__(self, rows: Sequence[ChainRow], write: Write) -> None:
        self._rows, self._write = rows, write

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        row = self._rows[index]
        with naming(of_row(row.id)):
            return Sample(read_picture(row.problem.image), row.problem.question, self._write(row), row.id)


def imitated(rows: Sequence[ChainRow], encoder: TurnEncoder) -> RowData:
    """Gold chains for SFT."""
    return RowData(rows, lambda row: encoder.chain(row.steps, row.answer))


def judged(rows: Sequence[ChainRow], encoder: TurnEncoder, source: Source, *, soft: bool) -> RowData:
    """Chains for a PRM, by the labels of one source; chains without them are left out.

    Errors: InputError when no chain has labels of that source.
    """
    labelled = [row for row in rows if source in row.labels]
    if not labelled:
        raise InputError(f"none of {len(rows)} chains has labels by {source!r}; run the stage `label`", "labels")

    def write(row: ChainRow) -> Turn:
        tags = row.labels[source]
        return encoder.judged(row.steps, row.answer, [tag.soft if soft else float(tag.hard) for tag in tags])

    return RowData(labelled, write)


def read_picture(path: str) -> Image.Image:
    """The RGB picture that a server would see. Errors: InputError naming the file."""
    return pixels(read_file(path), of_file(path))
