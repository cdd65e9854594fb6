"""Rows of files as training samples; pictures are read when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset

from cos.search.errors import InputError
from cos.training.encode import Sample, Turn, TurnEncoder
from cos.training.rows import ChainRow, Source, read_rows


@dataclass(frozen=True, slots=True)
class _Entry:
    picture: str
    question: str
    turn: Turn


class RowData(Dataset[Sample]):
    """Chains to be imitated or to be judged, encoded once."""

    def __init__(self, entries: Sequence[_Entry]) -> None:
        """Errors: InputError when there are none."""
        if not entries:
            raise InputError("there are no chains to train on; check the files of the stage", "data")
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self._entries[index]
        return Sample(read_picture(entry.picture), entry.question, entry.turn)

    @staticmethod
    def of_files(files: Sequence[Path], encoder: TurnEncoder, skip_bad: bool) -> RowData:
        """Gold chains for SFT."""
        rows = [row for file in files for row in read_rows(file, ChainRow, skip_bad=skip_bad)]
        return RowData(
            [_Entry(row.problem.image, row.problem.question, encoder.chain(row.steps, row.answer)) for row in rows]
        )

    @staticmethod
    def of_chains(
        files: Sequence[Path], encoder: TurnEncoder, source: Source, *, soft: bool, skip_bad: bool
    ) -> RowData:
        """Labelled chains for a PRM, by the labels of one source; chains without them are left out.

        Errors: InputError when labels and tags do not line up, or no chain has labels of that source.
        """
        rows = [row for file in files for row in read_rows(file, ChainRow, skip_bad=skip_bad)]
        return RowData([_judged(row, encoder, source, soft) for row in rows if source in row.labels])


def _judged(row: ChainRow, encoder: TurnEncoder, source: Source, soft: bool) -> _Entry:
    taught = row.agreed or (True,) * len(row.labels[source])
    labels = [
        (label.soft if soft else float(label.hard)) if counts else None
        for label, counts in zip(row.labels[source], taught, strict=True)
    ]
    try:
        turn = encoder.judged(row.steps, row.answer, labels)
    except ValueError as error:
        raise InputError(f"chain {row.id!r}: {error}", "chains") from error
    return _Entry(row.problem.image, row.problem.question, turn)


def read_picture(path: str) -> Image.Image:
    """An RGB picture. Errors: InputError naming the file."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise InputError(f"picture {path!r} cannot be read: {error}", "image") from error
