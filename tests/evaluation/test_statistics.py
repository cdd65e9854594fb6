"""Confidence intervals and pass@k."""

from itertools import combinations

import numpy as np
import pytest

from cos.evaluation.statistics import bootstrap_clusters, bootstrap_mean, pass_at_k


def test_an_interval_holds_the_mean_and_is_as_wide_as_theory_says():
    values = [1.0] * 300 + [0.0] * 200
    interval = bootstrap_mean(values, seed=0)
    standard_error = float(np.std(values)) / len(values) ** 0.5
    assert interval.low < 0.6 < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * standard_error, rel=0.05)


def test_the_same_seed_gives_the_same_interval():
    values = [0.0, 1.0, 1.0, 0.5, 0.25]
    assert bootstrap_mean(values, 7) == bootstrap_mean(values, 7)


def test_values_without_spread_have_an_interval_without_width():
    for values in ([0.5], [1.0, 1.0, 1.0]):
        interval = bootstrap_mean(values, 0)
        assert (interval.low, interval.high) == (values[0], values[0])


def test_a_paired_difference_is_surer_than_two_accuracies_apart():
    """Two strategies that differ on few problems: pairing must show it."""
    ours = [1.0] * 60 + [0.0] * 40
    theirs = [1.0] * 50 + [0.0] * 50
    paired = bootstrap_mean([mine - other for mine, other in zip(ours, theirs, strict=True)], 0)
    apart = bootstrap_mean(ours, 0)
    assert paired.low > 0
    assert paired.high - paired.low < apart.high - apart.low


@pytest.mark.parametrize(("samples", "right", "k"), [(6, 2, 3), (5, 0, 2), (5, 5, 1), (4, 1, 4)])
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_sample(samples: int, right: int, k: int):
    subsets = list(combinations([True] * right + [False] * (samples - right), k))
    assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_a_share_of_totals_is_as_sure_as_its_problems_not_as_its_tags():
    """Ten tags a problem that are all right or all wrong tell no more than one."""
    hits = np.array([1.0] * 60 + [0.0] * 40)

    def share(totals: np.ndarray) -> np.ndarray:
        return totals[:, 0] / totals[:, 1]

    interval = bootstrap_clusters(np.stack([10 * hits, np.full(100, 10.0)], 1), share, seed=0)
    alone = bootstrap_mean(hits.tolist(), 0)
    assert (interval.low, interval.high) == (pytest.approx(alone.low, abs=0.02), pytest.approx(alone.high, abs=0.02))


def test_resamples_without_a_value_are_left_out():
    interval = bootstrap_clusters(np.array([[1.0, 1.0], [0.0, 0.0]]), lambda totals: totals[:, 0] / totals[:, 1], 0)
    assert (interval.low, interval.high) == (1.0, 1.0)
