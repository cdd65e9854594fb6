"""Held-out ledgers as problems of the training stages."""

from pathlib import Path
from typing import cast

from cos.checkpoints import LedgerProblem
from cos.ledger.rows import ledger_meta
from cos.ledger.task import Kind, Problem, derive
from cos.training.data.rows import ProblemRow


def ledger_of(asked: LedgerProblem) -> Problem:
    """The ledger behind a held-out problem."""
    numbers = [int(word) for word in asked.question.rstrip("?").split() if word.isdigit()]
    pair = (numbers[0] - 1, numbers[1] - 1) if asked.kind == "difference" else (0, 0)
    problem = Problem(asked.rows, cast("Kind", asked.kind), pair, numbers[0] if asked.kind == "count" else 0)
    assert (problem.question, derive(problem).answer) == (asked.question, asked.answer)
    return problem


def problem_row(asked: LedgerProblem, folder: Path) -> ProblemRow:
    """The same as a row, its picture in ``folder``."""
    image = folder / f"{asked.id}.png"
    image.write_bytes(asked.image_png)
    return ProblemRow(
        id=asked.id,
        image=str(image),
        question=asked.question,
        answer=asked.answer,
        digits="evaluation",
        meta=ledger_meta(ledger_of(asked)),
    )
