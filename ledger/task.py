"""The ledger task: rows of handwritten numbers, questions that need several steps, and their exact derivations.

A ledger has two to four rows of two or three digits on a 4 x 4 grid of cells, each beginning behind the margin. A
question is answered by one deterministic chain: read every row, then work column by column (totals, differences) or
row by row (which row is the largest, how many rows pass a limit). `derive` writes that chain; given a *slip* it writes
the chain of somebody who misreads or miscalculates at some places and honestly carries the mistake on.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cos.search.grammars.cos import Step

Kind = Literal["total", "difference", "largest", "count"]
KINDS: tuple[Kind, ...] = ("total", "difference", "largest", "count")

GRID = 4
"""Rows and columns of cells."""


@dataclass(frozen=True, slots=True)
class Derivation:
    """A written-out chain: its steps and its answer."""

    steps: tuple[Step, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A ledger's true rows and one question about it."""

    rows: tuple[str, ...]
    kind: Kind
    pair: tuple[int, int] = (0, 0)
    """The two rows (from 0) of a difference, the larger first."""
    limit: int = 0
    """The limit of a count."""

    @property
    def question(self) -> str:
        match self.kind:
            case "total":
                return "What is the total of all rows?"
            case "difference":
                return f"How much more is row {self.pair[0] + 1} than row {self.pair[1] + 1}?"
            case "largest":
                return "Which row is the largest?"
            case "count":
                return f"How many rows are more than {self.limit}?"


Slip = Callable[[str, int], int]
"""``slip(what, value)``: the value as this writer gets it. ``what`` is "read" for a digit in the picture, "copy" for
one written before, "work" for a result, "decide" for a yes (1) or no (0)."""


def exact(what: str, value: int) -> int:
    """The slip of a writer who makes none."""
    del what
    return value


def sample_problem(rng: random.Random) -> Problem:
    """A random problem; every kind is equally likely."""
    kind = rng.choice(KINDS)
    rows = tuple(
        str(rng.randint(10, 99) if rng.random() < 0.7 else rng.randint(100, 999)) for _ in range(rng.randint(2, 4))
    )
    if kind == "difference":
        a, b = rng.sample(range(len(rows)), 2)
        if int(rows[a]) == int(rows[b]):
            return sample_problem(rng)
        return Problem(rows, kind, pair=(a, b) if int(rows[a]) > int(rows[b]) else (b, a))
    if kind == "largest" and len({int(row) for row in rows}) < len(rows):
        return sample_problem(rng)
    if kind == "count":
        return Problem(
            rows, kind, limit=rng.choice(range(20, 100, 10)) if rng.random() < 0.7 else rng.choice(range(100, 600, 100))
        )
    return Problem(rows, kind)


def is_reading(step: Step) -> bool:
    """Whether a step reads from the picture: it depends on no step before it."""
    return step.name.startswith("Read row")


def derive(problem: Problem, slip: Slip = exact) -> Derivation:
    """The chain for a problem; with ``exact`` the gold one. Every slip is carried on, as a person would."""
    rows: list[str] = []
    steps: list[Step] = []
    needed = problem.pair if problem.kind == "difference" else range(len(problem.rows))
    for index in needed:
        row = "".join(str(slip("read", int(digit))) for digit in problem.rows[index])
        rows.append(row)
        steps.append(Step(f"Read row {index + 1}", f"Row {index + 1} shows {row}.", f"It has {len(row)} digits."))
    work = {"total": _total, "difference": _difference, "largest": _largest, "count": _count}[problem.kind]
    more, answer = work(problem, rows, slip)
    return Derivation((*steps, *more), answer)


_COLUMNS = ("ones", "tens", "hundreds", "thousands")


def _column(row: str, place: int) -> int | None:
    return int(row[-1 - place]) if place < len(row) else None


def _copied(row: str, slip: Slip) -> str:
    return "".join(str(slip("copy", int(digit))) for digit in row)


def _total(problem: Problem, rows: list[str], slip: Slip) -> tuple[list[Step], str]:
    del problem
    steps: list[Step] = []
    written = ""
    carry = 0
    for place in range(max(map(len, rows))):
        terms = [slip("copy", digit) for row in rows if (digit := _column(row, place)) is not None]
        if carry:
            terms.append(carry)
        parts: list[str] = []
        running = terms[0]
        for term in terms[1:]:
            result = slip("work", running + term)
            parts.append(f"{running} + {term} = {result}")
            running = result
        sums = ", ".join(parts) if parts else f"{running}"
        carry, digit = (slip("copy", part) for part in divmod(max(running, 0), 10))
        written = f"{digit}{written}"
        steps.append(
            Step(f"Add the {_COLUMNS[place]}", f"{sums}, write {digit}, carry {carry}.", f"It ends in {written}.")
        )
    return steps, (f"{carry}{written}" if carry else written)


def _difference(problem: Problem, rows: list[str], slip: Slip) -> tuple[list[Step], str]:
    del problem
    upper, lower = rows
    steps: list[Step] = []
    written = ""
    borrow = 0
    for place in range(len(upper)):
        a, b = slip("copy", _column(upper, place) or 0), _column(lower, place)
        parts: list[str] = []
        if borrow:
            parts.append(f"{a} - 1 = {a - 1}")
            a -= 1
        borrow = 0
        if b is not None:
            b = slip("copy", b)
            if slip("decide", int(a < b)):
                borrow = 1
                parts.append(f"{a} + 10 = {a + 10}")
                a += 10
            result = slip("work", a - b)
            parts.append(f"{a} - {b} = {result}")
        else:
            result = a
            if result < 0:
                borrow = 1
                result += 10
        digit = slip("copy", result % 10)
        written = f"{digit}{written}"
        shown = ", ".join(parts) if parts else f"{a}"
        steps.append(
            Step(
                f"Subtract the {_COLUMNS[place]}", f"{shown}, write {digit}, borrow {borrow}.", f"It ends in {written}."
            )
        )
    return steps, str(int(written))


def _largest(problem: Problem, rows: list[str], slip: Slip) -> tuple[list[Step], str]:
    del problem
    steps: list[Step] = []
    best = 0
    for index in range(1, len(rows)):
        mine, its = _copied(rows[index], slip), _copied(rows[best], slip)
        bigger = slip("decide", int(int(mine) > int(its)))
        thought = f"{mine} {'>' if bigger else '<'} {its}."
        best = index if bigger else best
        steps.append(Step(f"Compare row {index + 1}", thought, f"Row {best + 1} leads."))
    return steps, str(best + 1)


def _count(problem: Problem, rows: list[str], slip: Slip) -> tuple[list[Step], str]:
    steps: list[Step] = []
    count = 0
    for index, row in enumerate(rows):
        number = _copied(row, slip)
        more = slip("decide", int(int(number) > problem.limit))
        count = slip("work", count + more)
        thought = f"{number} > {problem.limit}, yes." if more else f"{number} > {problem.limit}, no."
        steps.append(Step(f"Check row {index + 1}", thought, f"So far {count}."))
    return steps, str(count)


LOOKALIKES = {
    0: "6985",
    1: "7429",
    2: "7138",
    3: "5829",
    4: "9617",
    5: "3689",
    6: "0584",
    7: "1924",
    8: "3596",
    9: "4738",
}
"""Digits that handwriting confuses, likeliest first."""


def clumsy(rng: random.Random, misreads: float, miscounts: float) -> Slip:
    """A slip that misreads a digit with probability ``misreads`` and gets a result wrong with ``miscounts``, a digit
    that was written before half as often, and a decision twice as often."""
    likely = {"read": misreads, "work": miscounts, "copy": miscounts / 2, "decide": min(1.0, miscounts * 2)}

    def slip(what: str, value: int) -> int:
        if rng.random() >= likely[what]:
            return value
        match what:
            case "read" | "copy" if 0 <= value <= 9:
                alike = what == "read" and rng.random() < 0.6
                return int(rng.choice(LOOKALIKES[value] if alike else "0123456789".replace(str(value), "")))
            case "decide":
                return 1 - value
            case _:
                return max(0, value + rng.choice((-10, -2, -1, 1, 2, 10)))

    return slip
