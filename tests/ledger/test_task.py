"""The ledger task: gold derivations are right, clumsy ones carry their mistakes on."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cos.ledger.task import KINDS, Problem, clumsy, derive, sample_problem

seeds = st.integers(0, 2**32)


def truth(problem: Problem) -> int:
    """The answer by plain arithmetic."""
    rows = [int(row) for row in problem.rows]
    match problem.kind:
        case "total":
            return sum(rows)
        case "difference":
            return rows[problem.pair[0]] - rows[problem.pair[1]]
        case "largest":
            return rows.index(max(rows)) + 1
        case "count":
            return sum(row > problem.limit for row in rows)


@given(seeds)
@settings(max_examples=300, derandomize=True, deadline=None)
def test_the_gold_derivation_ends_in_the_true_answer(seed: int) -> None:
    problem = sample_problem(random.Random(seed))
    assert derive(problem).answer == str(truth(problem))


@given(seeds)
@settings(max_examples=200, derandomize=True, deadline=None)
def test_every_statement_of_a_gold_derivation_is_true(seed: int) -> None:
    problem = sample_problem(random.Random(seed))
    for step in derive(problem).steps:
        for part in step.thought.rstrip(".").split(", "):
            if " = " in part:
                left, right = part.split(" = ")
                a, sign, b = left.split()
                assert int(a) + int(b) * (1 if sign == "+" else -1) == int(right), part


@given(seeds)
@settings(max_examples=200, derandomize=True, deadline=None)
def test_a_clumsy_derivation_has_the_gold_ones_shape(seed: int) -> None:
    rng = random.Random(seed)
    problem = sample_problem(rng)
    gold, clumsily = derive(problem), derive(problem, clumsy(rng, 0.3, 0.1))
    assert clumsily.steps[0].name == gold.steps[0].name
    assert clumsily.answer


def test_a_misread_digit_is_carried_on_into_the_answer() -> None:
    problem = Problem(("47", "85"), "total")
    misread = iter([1, 7, 8, 5])
    wrong = derive(problem, lambda what, value: next(misread) if what == "read" else value)
    assert wrong.steps[0].thought == "Row 1 shows 17."
    assert wrong.answer == "102"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_sampled(kind: str) -> None:
    rng = random.Random(0)
    assert any(sample_problem(rng).kind == kind for _ in range(100))
