"""The table of answer pairs: by canonical forms alone, and what those leave open is not equal."""

import time
from itertools import combinations
from pathlib import Path

import pytest

from cos.search.answers import compare, equal, may_be_undecided

ROWS = [line.split("\t") for line in Path(__file__).with_name("answer_pairs.tsv").read_text("utf-8").split("\n")[1:-1]]


@pytest.mark.parametrize(("one", "other", "same", "shape"), ROWS)
def test_a_pair_of_the_table_is_told_rightly(one: str, other: str, same: str, shape: str) -> None:
    assert equal(one, other) == equal(other, one) == (same == "yes"), shape


def test_what_has_nothing_for_algebra_is_never_undecided() -> None:
    answers = sorted({answer for one, other, _, _ in ROWS for answer in (one, other) if not may_be_undecided(answer)})
    assert not [pair for pair in combinations(answers, 2) if compare(*pair) == "undecided"]


def test_the_table_is_wide_and_half_of_it_unequal() -> None:
    unequal = sum(same == "no" for _, _, same, _ in ROWS)
    assert len(ROWS) >= 300
    assert unequal >= 150
    assert len(ROWS) - unequal >= 150
    assert len({(one, other) for one, other, _, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize("huge", ["9^9^9^9", "99999999!", "300!!!!", "1e99999999", "2^(10^9)", "((9!)!)!", "(" * 190])
def test_a_huge_number_costs_nothing(huge: str) -> None:
    started = time.process_time()
    assert compare(huge, "1") != "equal"
    assert time.process_time() - started < 0.2
