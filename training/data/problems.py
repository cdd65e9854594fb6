"""A stage's problems: drawn by a generated task, or rows from files."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cos.search.errors import InputError
from cos.training.data.rows import ChainRow, ProblemRow, check_gold, holds_chains, read_rows, write_rows
from cos.training.data.sources import RowKeys
from cos.training.menu import generated_task
from cos.training.runs.folder import StageContext

if TYPE_CHECKING:
    from cos.training.config.recipe import ProblemSource
    from cos.training.data.preflight import Intake

PROBLEMS = "problems.jsonl"


def problems_of(source: "ProblemSource", context: StageContext, intake: "Intake") -> list[ProblemRow]:
    """The problems of a recipe's source, looked through; ledgers are drawn into the stage's folder, as problems.jsonl
    and images/.

    Errors: InputError for files that cannot be read, hold no problem, hold bad ones that are not to be skipped, or one
    id for two problems.
    """
    ledger = source.ledger
    if ledger is None:
        found = intake.seen(intake.problems_of(source.data, images_of(source, context)))
        intake.settle("problems")
        if not found:
            raise InputError(f"{', '.join(source.data)}: there is no problem in it", "problems")
        check_gold(found)
        return found
    if ledger.problems is None:
        raise InputError("ledger: give problems, how many are to be drawn", "ledger.problems")
    seed = context.seed if ledger.seed is None else ledger.seed
    rows = generated_task().draw(context, ledger.digits, ledger.problems, seed)
    write_rows(context.folder / PROBLEMS, rows)
    return rows


def images_of(keys: RowKeys, context: StageContext) -> Path | None:
    """The folder of a section's pictures, where it names one."""
    return None if keys.images is None else context.resolve(keys.images)


def read_problems(
    paths: Iterable[Path],
    *,
    skip_bad: bool = False,
    skipped: list[str] | None = None,
    places: list[str] | None = None,
    images: Path | None = None,
) -> list[ProblemRow]:
    """The problems of JSONL files of problems or of chains, each once, in order. ``skipped``, ``places`` and
    ``images`` as `read_rows` has them. Errors: InputError for a bad line that is not to be skipped, and one id for two
    problems."""
    found: dict[str, ProblemRow] = {}
    for path in paths:
        where: list[str] = []
        how: Any = {"skip_bad": skip_bad or skipped is not None, "skipped": skipped, "places": where, "images": images}
        rows = (
            (chain.problem for chain in read_rows(path, ChainRow, **how))
            if holds_chains(path)
            else read_rows(path, ProblemRow, **how)
        )
        for row in rows:
            if row.id not in found and places is not None:
                places.append(where[-1])
            if found.setdefault(row.id, row) != row:
                raise InputError(f"{where[-1]}: id {row.id!r} names two different problems; rename one", "problems")
    return list(found.values())
