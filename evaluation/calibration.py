"""How far a PRM's scores can be taken for probabilities: expected calibration error, Brier score, reliability plot,
and a logistic correction.

Sources: expected calibration error in bins, Guo et al., arXiv 1706.04599; bins of equal mass, Nguyen and O'Connor,
arXiv 1508.05154; the logistic correction, Platt 1999 (with the scale alone it is temperature scaling).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cos.search.errors import InputError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

BINS = 15
CLIP = 1e-6
"""Scores are kept that far from 0 and 1 where their log-odds are taken."""


@dataclass(frozen=True)
class Reliability:
    """Scores in bins. An empty bin has no share and NaN means."""

    share: Floats
    """Share of all weight in each bin; sums to 1."""
    score: Floats
    """Mean score of each bin."""
    good: Floats
    """Share of good in each bin."""

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean gap between score and share of good."""
        return float(np.nansum(self.share * np.abs(self.score - self.good)))


def even_weights(good: Bools) -> Floats:
    """Weights under which good and bad count the same; they sum to 1.

    Errors: InputError when one of them is missing, for then nothing can be balanced.
    """
    kinds = {"good": int(good.sum()), "bad": int((~good).sum())}
    missing = [name for name, count in kinds.items() if not count]
    if missing:
        raise InputError(f"there is no {missing[0]} tag among {good.size}; give chains with both kinds", "chains")
    return np.where(good, 0.5 / kinds["good"], 0.5 / kinds["bad"])


def same_weights(good: Bools) -> Floats:
    """Weights under which every tag counts the same; they sum to 1."""
    return np.full(good.size, 1 / good.size)


def equal_width(scores: Floats, bins: int = BINS) -> Ints:
    """The bin of each score when bins are equally wide; 1 belongs to the last."""
    return np.minimum((scores * bins).astype(np.int64), bins - 1)


def equal_mass(scores: Floats, weights: Floats, bins: int = BINS) -> Ints:
    """The bin of each score when bins hold equal weight; equal scores share a bin."""
    order = np.argsort(scores, kind="stable")
    before = np.cumsum(weights[order]) - weights[order]
    _, first, which = np.unique(scores[order], return_index=True, return_inverse=True)
    found = np.empty(scores.size, np.int64)
    # A border that falls on a score must not be decided by rounding: hence the 1e-9.
    found[order] = np.minimum((before[first][which] / weights.sum() * bins + 1e-9).astype(np.int64), bins - 1)
    return found


def reliability(scores: Floats, good: Bools, weights: Floats, where: Ints, bins: int = BINS) -> Reliability:
    """Scores against the share of good, bin by bin; ``where`` is the bin of each."""
    mass = np.bincount(where, weights, bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(where, weights * scores, bins) / mass
        share = np.bincount(where, weights * good, bins) / mass
    return Reliability(mass / mass.sum(), mean, share)


def brier(scores: Floats, good: Bools, weights: Floats) -> float:
    """Mean squared distance of score and outcome, 0 to 1 (0.25 for a score of one half throughout)."""
    return float(np.average((scores - good) ** 2, weights=weights))


def roc_auc(scores: Floats, good: Bools) -> float:
    """Chance that a good tag scores above a bad one, ties half: the area under the ROC curve. NaN without both."""
    from scipy.stats import rankdata

    positives = int(good.sum())
    negatives = good.size - positives
    if not positives or not negatives:
        return math.nan
    above = float(rankdata(scores)[good].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)


@dataclass(frozen=True, slots=True)
class Platt:
    """A correction of scores: ``sigmoid(scale * log-odds + bias)``. The temperature is 1 / scale."""

    scale: float
    bias: float

    def __call__(self, scores: Floats) -> Floats:
        """The corrected scores."""
        return 1 / (1 + np.exp(-(self.scale * log_odds(scores) + self.bias)))


def log_odds(scores: Floats) -> Floats:
    """log(p / (1 - p)), with p kept away from 0 and 1."""
    kept = np.clip(scores, CLIP, 1 - CLIP)
    return np.log(kept) - np.log1p(-kept)


def fit_platt(scores: Floats, good: Bools, weights: Floats, *, bias: bool) -> Platt:
    """The correction that makes these outcomes likeliest; without ``bias`` a temperature alone."""
    from scipy.optimize import minimize

    odds, sign, share = log_odds(scores), np.where(good, 1.0, -1.0), weights / weights.sum()

    def loss(values: Floats) -> tuple[float, Floats]:
        margins = sign * (np.exp(values[0]) * odds + (values[1] if bias else 0.0))
        slope = -sign * share / (1 + np.exp(margins))
        gradient = np.array([np.sum(slope * odds) * np.exp(values[0]), np.sum(slope) if bias else 0.0])
        return float(np.sum(share * np.logaddexp(0.0, -margins))), gradient

    # The scale is sought by its logarithm: it stays positive, so that a correction never turns the order round.
    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-5.0, 5.0), (-10.0, 10.0)])
    return Platt(float(np.exp(found.x[0])), float(found.x[1]) if bias else 0.0)


def plot_reliability(path: Path, curves: Mapping[str, Reliability], title: str) -> None:
    """Draws share of good over score, and below it how much weight lies where; writes a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="calibrated")
    for name, curve in curves.items():
        filled = curve.share > 0
        label = f"{name}, ECE {curve.ece:.3f}"
        above.plot(curve.score[filled], curve.good[filled], marker="o", markersize=4, label=label)
        below.step(curve.score[filled], curve.share[filled], where="mid")
    above.set(ylabel="share of good tags", title=title, xlim=(0, 1), ylim=(0, 1))
    above.legend(loc="lower right", frameon=False)
    below.set(xlabel="PRM score, P(good)", ylabel="share of weight")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
