"""What stops a stage, told by the stage and the row it came of.

A plain exception says little to who trains, and one kind says something false: a StopIteration out of a data loader
means that the data have ended.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from torch.utils.data import Dataset

from cos.search.errors import CosError, EngineError, InputError

Batch = TypeVar("Batch")


class StageError(CosError):
    """A stage could not do all of its work. The message names the stage, and the row where it is known."""


def named(place: str, error: Exception) -> CosError:
    """The error with the place where it happened before it: errors by the caller's fault and an engine's stay what they
    are, all others become `StageError`."""
    if isinstance(error, InputError):
        return InputError(f"{place}: {error}", error.param)
    if isinstance(error, EngineError | StageError):
        return type(error)(f"{place}: {error}")
    said = f": {error}" if str(error) else ""
    return StageError(f"{place}: {type(error).__name__}{said}")


@contextmanager
def naming(place: str) -> Generator[None]:
    """Names the place of any error within. Errors: as `named` has them."""
    try:
        yield
    except Exception as error:
        raise named(place, error) from error


def of_stage(name: str) -> str:
    """A stage as errors name it; ``name``: its folder's."""
    return f"stage {name!r}"


def of_row(row: str) -> str:
    """A row as errors name it; ``row``: its id."""
    return f"row {row!r}"


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
        with naming(self._place):
            at_once = getattr(self._data, "__getitems__", None)
            return [self._data[index] for index in indices] if at_once is None else at_once(indices)


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


def collate_named(collate: Callable[[list[Any]], Batch], stage: str) -> Callable[[list[Any]], Batch]:
    """A collator whose errors name the stage beside the row."""
    by_row = rows_named(collate)

    def collated(samples: list[Any]) -> Batch:
        with naming(of_stage(stage)):
            return by_row(samples)

    return collated


def _guilty(collate: Callable[[list[Any]], Any], samples: Sequence[Any]) -> str:
    rows: list[str] = [getattr(sample, "row", "") for sample in samples]
    for sample, row in zip(samples, rows, strict=True):
        try:
            collate([sample])
        except Exception:
            return of_row(row) if row else "a sample of no row"
    return f"a batch of {', '.join(of_row(row) if row else 'no row' for row in rows)}"
