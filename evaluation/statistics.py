"""How sure a measured number is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Sums = npt.NDArray[np.float64]

RESAMPLES = 10_000
BATCH = 1_000
"""Resamples computed at once."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


def bootstrap_mean(values: Sequence[float], seed: int) -> Interval:
    """Percentile bootstrap of a mean over problems. Of paired differences it is the paired bootstrap: both members of a
    pair are resampled together. A single value is its own interval."""
    if len(values) < 2:
        return Interval(values[0], values[0])
    import numpy as np
    from scipy.stats import bootstrap

    interval = bootstrap(
        (np.asarray(values, dtype=float),),
        np.mean,
        n_resamples=RESAMPLES,
        batch=BATCH,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(interval.low), float(interval.high))


def bootstrap_ratio(
    over: Sequence[float], under: Sequence[float], seed: int, percentile: float = 50
) -> tuple[float, Interval]:
    """A percentile (the median unless given) of ``over`` by that of ``under``, which are pairs; percentile bootstrap,
    pairs resampled together."""
    import numpy as np
    from scipy.stats import bootstrap

    def ratio(one: Sums, other: Sums, axis: int = -1) -> Sums:
        return np.percentile(one, percentile, axis=axis) / np.percentile(other, percentile, axis=axis)

    pair = np.asarray(over, dtype=float), np.asarray(under, dtype=float)
    value = float(ratio(*pair))
    if len(over) < 2:
        return value, Interval(value, value)
    interval = bootstrap(
        pair,
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=BATCH,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return value, Interval(float(interval.low), float(interval.high))


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Unbiased chance that one of k samples is right, from ``right`` of ``samples``.

    Source: Chen et al., arXiv 2107.03374, equation 1.
    """
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def bootstrap_clusters(sums: Sums, statistic: Callable[[Sums], Sums], seed: int) -> Interval:
    """Percentile bootstrap of a statistic of totals, resampled by problem: what belongs to one problem stays together.

    ``sums`` (problems, columns) are each problem's own; ``statistic`` gives one value for each row of totals
    (resamples, columns). Resamples where it is NaN (a kind is missing from them) are left out.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    problems = len(sums)
    found: list[Sums] = []
    for _ in range(RESAMPLES // BATCH):
        counts = rng.multinomial(problems, np.full(problems, 1 / problems), BATCH)
        with np.errstate(divide="ignore", invalid="ignore"):
            found.append(statistic(counts @ sums))
    values = np.concatenate(found)
    values = values[np.isfinite(values)]
    if not values.size:
        return Interval(math.nan, math.nan)
    low, high = np.percentile(values, (2.5, 97.5))
    return Interval(float(low), float(high))
