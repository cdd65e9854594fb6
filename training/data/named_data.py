"""Datasets and collators whose errors name the stage and the row they came of.

A loader's worker process hands an error on as a value: PyTorch would make another of it, its traceback for a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch.utils.data import Dataset, get_worker_info

from cos.evaluation.failures import StageError, named, naming, of_row, of_stage
from cos.search.errors import CosError, InputError

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class Failure:
    """An error on its way out of a worker process, in place of a sample or a batch."""

    message: str
    param: str | None
    """Of an `InputError`."""

    def error(self) -> CosError:
        """The error again."""
        return StageError(self.message) if self.param is None else InputError(self.message, self.param)


def handed_on(error: CosError) -> Failure:
    """An error as a value. Errors: the error itself where this is no worker process."""
    if get_worker_info() is None:
        raise error
    return Failure(str(error), error.param if isinstance(error, InputError) else None)


def read(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches. Errors: what a worker process met in place of one of them."""
    for batch in batches:
        if isinstance(batch, Failure):
            raise batch.error()
        yield batch


class NamedData(Dataset[Any]):
    """A dataset whose errors name the stage."""

    def __init__(self, data: Any, stage: str) -> None:
        """``data``: a dataset with a length."""
        self._data, self._place = data, of_stage(stage)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Any:
        with naming(self._place):
            return self._data[index]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """A batch at once, by the dataset's own way where it has one."""
        try:
            with naming(self._place):
                at_once = getattr(self._data, "__getitems__", None)
                return [self._data[index] for index in indices] if at_once is None else at_once(indices)
        except CosError as error:
            return [handed_on(error)]


def rows_named(collate: Callable[[list[Any]], Batch]) -> Callable[[list[Any]], Batch]:
    """A collator whose errors name the row that cannot be collated by itself, or else all rows of the batch.

    A sample's ``row`` is the id of its row, where it has one.
    """

    def collated(samples: list[Any]) -> Batch:
        try:
            return collate(samples)
        except Exception as error:
            raise named(_guilty(collate, samples), error) from error

    return collated


def collate_named(collate: Callable[[list[Any]], Any], stage: str) -> Callable[[list[Any]], Any]:
    """A collator whose errors name the stage beside the row."""
    by_row = rows_named(collate)

    def collated(samples: list[Any]) -> Any:
        if isinstance(samples[0], Failure):
            return samples[0]
        try:
            with naming(of_stage(stage)):
                return by_row(samples)
        except CosError as error:
            return handed_on(error)

    return collated


def _guilty(collate: Callable[[list[Any]], Any], samples: Sequence[Any]) -> str:
    rows: list[str] = [getattr(sample, "row", "") for sample in samples]
    for sample, row in zip(samples, rows, strict=True):
        try:
            collate([sample])
        except Exception:
            return of_row(row) if row else "a sample of no row"
    return f"a batch of {', '.join(of_row(row) if row else 'no row' for row in rows)}"
