"""Errors that stop a stage, with the stage and the row they came of.

A plain exception says little to who trains, and one kind says something false: a StopIteration out of a data loader
means that the data have ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from cos.search.errors import CosError, EngineError, InputError


class StageError(CosError):
    """A stage could not do all of its work. The message names the stage, and the row where it is known."""


def named(place: str, error: Exception) -> CosError:
    """The error with the place where it happened before it: errors by the caller's fault and an engine's stay what they
    are, all others become `StageError`."""
    if isinstance(error, InputError):
        return InputError(f"{place}: {error}", error.param)
    if isinstance(error, EngineError | StageError):
        return type(error)(f"{place}: {error}")
    message = f": {error}" if str(error) else ""
    return StageError(f"{place}: {type(error).__name__}{message}")


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


def kind_of_failure(why: str) -> str:
    """The kind of a failure: what is said before the first colon."""
    return why.partition(": ")[0]


def most_often(reasons: Sequence[str]) -> str:
    """The most frequent of some reasons; empty where there is none."""
    return Counter(reasons).most_common(1)[0][0] if reasons else ""


def check_share(what: str, failed: Sequence[str], total: int, at_most: float) -> None:
    """Errors: StageError when more than the share ``at_most`` of ``total`` items failed.

    ``what``: which failed, as the message says it. ``failed``: why each did.
    """
    if len(failed) <= at_most * total:
        return
    kinds = Counter(map(kind_of_failure, failed))
    ((kind, count),) = kinds.most_common(1)
    first = next(why for why in failed if kind_of_failure(why) == kind)
    others = f" (other reasons: {len(kinds) - 1})" if len(kinds) > 1 else ""
    raise StageError(
        f"{len(failed)} of {total} {what}, {count} of them because: {first}{others}; what succeeded is kept: mend the "
        f"cause and run the same command again, it tries only what failed, or raise failed_at_most ({at_most:g})"
    )
