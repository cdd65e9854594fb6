"""How sure a measured mean is."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

RESAMPLES = 10_000


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
        batch=1_000,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(interval.low), float(interval.high))


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Unbiased chance that one of k samples is right, from ``right`` of ``samples``.

    Source: Chen et al., arXiv 2107.03374, equation 1.
    """
    return 1 - comb(samples - right, k) / comb(samples, k)
