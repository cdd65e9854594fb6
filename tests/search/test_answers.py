"""What two answers say, compared: without help, and with math-verify in its own processes."""

import logging
import time
from collections.abc import Callable
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cos.search.answers import PlainComparer, choice_of, compare, equal, plain
from cos.search.math_answers import MathComparer
from cos.search.ports import Comparer

ANSWER = st.text(max_size=30) | st.from_regex(r"\(?-?\d{1,4}([.,/]\d{1,4})?%? ?(cm|mm|row)?\)?[.]?", fullmatch=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("15", " 15. "),
        ("A", "(a)"),
        ("(B)", "option b"),
        ("B) 12 cm", "12 cm"),
        ("\\boxed{B}", "b."),
        ("Yes", "yes"),
        ("The cat", "cat!"),
        ("1,234,567.5", "1234567.5"),
        ("3/4", "0.75"),
        ("\\frac{3}{4}", "75%"),
        ("1 1/2", "1.5"),
        ("25 percent", "0.25"),
        ("12 cm", "12"),
        ("12 cms", "12 cm"),
        ("$5", "5"),
        ("\u22123", "-3"),
        ("\uff11\uff12", "12"),
        ("1/3", "0.33333"),
        ("$\\frac{1}{2}$", "1/2"),
    ],
)
def test_answers_that_differ_in_form_only_are_one(one: str, other: str) -> None:
    assert equal(one, other)
    assert equal(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (".5", "5"),
        ("1,2", "12"),
        ("-5", "5"),
        ("1,0000", "10000"),
        ("", "0"),
        ("25", "25%"),
        ("12 cm", "12 mm"),
        ("$5", "\u20ac5"),
        ("row 2", "2"),
        ("row 2", "row 3"),
        ("1/0", "0"),
        ("1/3", "0.33"),
        ("15", "16"),
        ("10000000000000000", "10000000000000001"),
        ("a", "b"),
        ("cat", "x + 1"),
        ("(1,2)", "(2,1)"),
    ],
)
def test_answers_that_differ_in_substance_stay_apart(one: str, other: str) -> None:
    assert compare(one, other) == compare(other, one) == "different"


@pytest.mark.parametrize(
    ("one", "other"),
    [("\\frac{1}{2}x", "x/2"), ("2\\sqrt{2}", "\\sqrt{8}"), ("4", "2\\sqrt{4}"), ("x^2", "x*x")],
)
def test_what_needs_algebra_is_undecided(one: str, other: str) -> None:
    assert compare(one, other) == compare(other, one) == "undecided"


@given(one=ANSWER, other=ANSWER)
def test_comparing_never_fails_is_symmetrical_and_finds_an_answer_equal_to_itself(one: str, other: str) -> None:
    assert compare(one, one) == "equal"
    assert compare(one, other) == compare(other, one)
    assert plain(plain(one)) == plain(plain(plain(one)))


def test_a_very_long_answer_is_text() -> None:
    started = time.process_time()
    assert not equal("(" * 50_000, "1" * 50_000)
    assert equal("9" * 50_000, "9" * 50_000)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("answer", "choice"),
    [("B", 1), ("(b)", 1), ("the Dog", 1), ("A) cat", 0), ("C", None), ("bird", None), ("", None)],
)
def test_an_answer_means_a_choice_by_its_text_or_its_letter(answer: str, choice: int | None) -> None:
    assert choice_of(answer, ("cat", "dog")) == choice


def test_choices_that_are_letters_are_meant_by_themselves() -> None:
    assert [choice_of(answer, ("D", "E")) for answer in ("D", "e.", "A")] == [0, 1, None]


async def agree(comparer: Comparer, one: str, other: str) -> bool:
    """Whether two answers are found to say the same."""
    return bool((await comparer.agree([(one, other)]))[0])


async def test_without_help_what_is_undecided_is_not_equal() -> None:
    assert not await agree(PlainComparer(), "2\\sqrt{2}", "\\sqrt{8}")
    assert await agree(PlainComparer(), "1/2", "0.5")


async def test_math_verify_decides_what_is_undecided() -> None:
    async with MathComparer(workers=1) as comparer:
        assert await agree(comparer, "2\\sqrt{2}", "\\sqrt{8}")
        assert await agree(comparer, "\\frac{1}{2}x", "x/2")
        assert not await agree(comparer, "(1,2)", "(2,1)")
        assert not await agree(comparer, "x^", "\\frac{")


DECIDERS = """
import os
import time


def hang(one, other):
    if "x" in one:
        time.sleep(60)
    return True


def die(one, other):
    if "x" in one:
        os._exit(3)
    return True


def fail(one, other):
    if "x" in one:
        raise ValueError(one)
    return True
"""


@pytest.mark.parametrize("decide", ["hang", "die", "fail"])
async def test_a_comparison_that_hangs_dies_or_fails_is_not_equal_and_harms_no_other(
    decide: str, deciders: Callable[[str], ModuleType], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with MathComparer(seconds=0.5, workers=1, decide=getattr(deciders(DECIDERS), decide)) as comparer:
            assert not await agree(comparer, "x^2", "x*x")
            assert await agree(comparer, "y^2", "y*y")
    assert "answers of 3 and 3 characters" in caplog.text
    assert all("x*x" not in record.getMessage() for record in caplog.records)


async def test_no_process_starts_for_what_is_plain() -> None:
    def never(one: str, other: str) -> bool:
        raise AssertionError

    async with MathComparer(decide=never) as comparer:
        assert await agree(comparer, "15", "15.0")


@pytest.mark.parametrize(
    "answer", [r"\boxed{" * 4000 + "1" + "}" * 4000, "answer: " * 4000 + "7", "(" * 16_000 + ")" * 16_000]
)
def test_wrappers_in_wrappers_take_no_time(answer: str) -> None:
    started = time.process_time()
    assert compare(answer, "7") == "different"
    assert time.process_time() - started < 1
