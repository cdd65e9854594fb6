"""Calibration: what a score means as a probability."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cos.evaluation.calibration import (
    Floats,
    Platt,
    brier,
    equal_mass,
    equal_width,
    even_weights,
    fit_platt,
    plot_reliability,
    reliability,
    roc_auc,
    same_weights,
)
from cos.search.errors import InputError


def drawn(seed: int = 0, count: int = 20_000) -> tuple[Floats, np.ndarray]:
    """Scores that are probabilities, and outcomes with those probabilities."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.001, 0.999, count)
    return scores, rng.uniform(size=count) < scores


def overdone(scores: Floats, times: float) -> Floats:
    """Scores whose log-odds are ``times`` what they should be."""
    return Platt(times, 0.0)(scores)


def test_scores_that_are_probabilities_have_next_to_no_calibration_error():
    scores, good = drawn()
    for where in (equal_width(scores), equal_mass(scores, same_weights(good))):
        assert reliability(scores, good, same_weights(good), where).ece < 0.015
    assert brier(scores, good, same_weights(good)) == pytest.approx(1 / 6, abs=0.01)


def test_a_score_that_says_one_and_is_right_half_of_the_time_errs_by_a_half():
    good = np.array([True, False] * 50)
    scores = np.ones(100)
    assert reliability(scores, good, same_weights(good), equal_width(scores)).ece == pytest.approx(0.5)
    assert brier(scores, good, same_weights(good)) == pytest.approx(0.5)


def test_the_error_is_the_one_computed_by_hand():
    scores = np.array([0.1, 0.1, 0.9, 0.9])
    good = np.array([False, True, True, True])
    found = reliability(scores, good, same_weights(good), equal_width(scores, 2), 2)
    assert found.share.tolist() == [0.5, 0.5]
    assert found.ece == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)


def test_balanced_weights_give_both_kinds_the_same_say():
    good = np.array([True] * 9 + [False])
    weights = even_weights(good)
    assert weights[good].sum() == pytest.approx(0.5)
    assert weights[~good].sum() == pytest.approx(0.5)
    scores = np.full(10, 0.5)
    assert reliability(scores, good, weights, equal_width(scores)).ece == pytest.approx(0)
    with pytest.raises(InputError, match="no bad tag among 3"):
        even_weights(np.array([True] * 3))


def test_adaptive_bins_hold_equal_mass_and_never_part_equal_scores():
    scores = np.linspace(0, 1, 150) ** 4
    assert np.bincount(equal_mass(scores, np.ones(150))).tolist() == [10] * 15
    tied = np.array([0.2] * 50 + [0.7] * 50)
    assert len(set(equal_mass(tied, np.ones(100)).tolist())) == 2


def test_a_temperature_undoes_overconfidence():
    scores, good = drawn()
    bold = overdone(scores, 3.0)
    weights = same_weights(good)
    mended = fit_platt(bold, good, weights, bias=False)
    assert mended.scale == pytest.approx(1 / 3, rel=0.05)
    assert mended.bias == 0
    assert reliability(bold, good, weights, equal_width(bold)).ece > 0.1
    assert reliability(mended(bold), good, weights, equal_width(mended(bold))).ece < 0.02


def test_a_bias_undoes_a_shift_that_a_temperature_cannot():
    scores, good = drawn()
    shifted = Platt(1.0, 1.5)(scores)
    weights = same_weights(good)
    both, alone = (fit_platt(shifted, good, weights, bias=bias) for bias in (True, False))
    assert (both.scale, both.bias) == (pytest.approx(1, rel=0.05), pytest.approx(-1.5, rel=0.05))
    errors = [reliability(p(shifted), good, weights, equal_width(p(shifted))).ece for p in (both, alone)]
    assert errors[0] < 0.02 < errors[1]


def test_a_correction_keeps_the_order_of_scores():
    scores, good = drawn(count=500)
    against = fit_platt(scores, ~good, same_weights(good), bias=True)
    assert np.all(np.diff(against(np.sort(scores))) >= 0)


def test_scores_of_zero_and_one_can_be_corrected():
    scores, good = np.array([0.0, 1.0, 1.0]), np.array([False, True, False])
    assert np.all(np.isfinite(fit_platt(scores, good, same_weights(good), bias=True)(scores)))


def test_the_area_under_the_roc_curve_is_the_chance_to_rank_a_pair_rightly():
    assert roc_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == pytest.approx(0.75)
    assert roc_auc(np.array([0.5, 0.5]), np.array([True, False])) == pytest.approx(0.5)
    assert math.isnan(roc_auc(np.array([0.5]), np.array([True])))


def test_the_reliability_plot_is_a_picture(tmp_path: Path):
    scores, good = drawn(count=300)
    curve = reliability(scores, good, same_weights(good), equal_width(scores))
    plot_reliability(tmp_path / "new" / "reliability.png", {"raw": curve}, "Reliability")
    with Image.open(tmp_path / "new" / "reliability.png") as picture:
        assert min(picture.size) > 300
