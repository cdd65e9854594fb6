"""P(good) of two labels: a softmax that never overflows, and no score where the model meant neither."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cos.prm.labels import p_good, shares


def test_both_labels_at_minus_infinity_are_no_score() -> None:
    assert p_good(-math.inf, -math.inf) is None


@pytest.mark.parametrize(("good", "bad"), [(-9999.0, -9999.0), (-14.0, -20.0), (-25.0, -14.0)])
def test_labels_that_the_model_meant_neither_of_are_no_score(good: float, bad: float) -> None:
    assert p_good(good, bad) is None


@pytest.mark.parametrize(
    ("good", "bad", "p"),
    [(-1.0, -1.0, 0.5), (0.0, -1e6, 1.0), (-1e6, 0.0, 0.0), (0.0, -745.0, 1.0), (-800.0, 0.0, 0.0)],
)
def test_extreme_margins_saturate_without_overflow(good: float, bad: float, p: float) -> None:
    assert p_good(good, bad) == pytest.approx(p, abs=1e-300)


@given(st.floats(-13, 0), st.floats(-1e4, 0))
def test_p_good_is_the_softmax_over_the_two_labels(good: float, bad: float) -> None:
    p, q = p_good(good, bad), p_good(bad, good)
    assert p is not None
    assert q is not None
    assert 0 <= p <= 1
    assert p + q == pytest.approx(1)
    assert p >= 0.5 or good < bad
    assert p <= 0.5 or good > bad
    if abs(good - bad) < 700:
        assert p == pytest.approx(1 / (1 + math.exp(bad - good)))


@given(st.floats(-30, 30), st.floats(1e-6, 5))
def test_a_larger_margin_is_never_a_smaller_score(margin: float, more: float) -> None:
    assert (p_good(margin + more, 0.0) or 0.0) >= (p_good(margin, 0.0) or 0.0)


@given(st.lists(st.floats(-13, 0), min_size=1, max_size=5))
def test_shares_are_the_softmax_over_any_number_of_labels(logprobs: list[float]) -> None:
    found = shares(logprobs)
    assert found is not None
    assert math.fsum(found) == pytest.approx(1)
    total = math.fsum(map(math.exp, logprobs))
    assert found == pytest.approx([math.exp(logprob) / total for logprob in logprobs])


@pytest.mark.parametrize("logprobs", [(-1.0, math.nan, -1.0), (-1.0, -1.0, -math.inf), (-14.0, -15.0, -20.0), ()])
def test_shares_of_labels_that_say_nothing_are_no_shares(logprobs: tuple[float, ...]) -> None:
    assert shares(logprobs) is None
