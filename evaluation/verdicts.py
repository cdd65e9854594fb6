"""A PRM's verdicts on labelled tags: how often they are right, and how sure they should be.

The shape is the paper's Table 3: steps and answers apart. Accuracies are balanced: the mean of the shares of good and
of bad tags that are recognised, so that a PRM that calls everything good gets one half.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cos.evaluation.calibration import (
    BINS,
    Bools,
    Floats,
    Ints,
    Platt,
    Reliability,
    brier,
    equal_mass,
    equal_width,
    even_weights,
    fit_platt,
    reliability,
    roc_auc,
    same_weights,
)
from cos.evaluation.provenance import Facts
from cos.evaluation.statistics import Interval, bootstrap_clusters
from cos.search.errors import InputError

THRESHOLD = 0.5
"""A tag is called good when its score is above."""


@dataclass(frozen=True)
class Verdicts:
    """Scored and labelled tags; all sequences have the same length."""

    problem: Ints
    """Which problem a tag belongs to, from 0: tags of one problem are not independent."""
    is_answer: Bools
    good: Bools
    scores: Floats

    def where(self, kept: Bools) -> "Verdicts":
        """Some of the tags."""
        return Verdicts(self.problem[kept], self.is_answer[kept], self.good[kept], self.scores[kept])

    @property
    def right(self) -> Bools:
        """Whether each tag is called what it is."""
        return (self.scores > THRESHOLD) == self.good


@dataclass(frozen=True, slots=True)
class Labelled:
    """One chain's tags: a score (None: missing) and a label (None: nobody gave one) for each, the answer's last."""

    problem: str
    scores: Sequence[float | None]
    good: Sequence[bool | None]


def verdicts_of(chains: Sequence[Labelled]) -> tuple[Verdicts, int]:
    """All labelled tags of some chains, and how many of them have no score and are left out.

    Errors: InputError when a chain has not as many scores as labels, or no tag has a score.
    """
    numbers: dict[str, int] = {}
    rows: list[tuple[int, bool, bool, float]] = []
    missing = 0
    for chain in chains:
        if len(chain.scores) != len(chain.good):
            raise InputError(
                f"a chain of {chain.problem} has {len(chain.scores)} scores for {len(chain.good)} labels; "
                "score it again",
                "chains",
            )
        problem = numbers.setdefault(chain.problem, len(numbers))
        for index, (score, good) in enumerate(zip(chain.scores, chain.good, strict=True)):
            if good is None:
                continue
            if score is None or not math.isfinite(score):
                missing += 1
            else:
                rows.append((problem, index == len(chain.good) - 1, good, score))
    if not rows:
        raise InputError(f"none of the {missing} tags has a score; give chains that a PRM can read", "chains")
    problem, is_answer, good, scores = zip(*rows, strict=True)
    return Verdicts(np.array(problem), np.array(is_answer), np.array(good), np.array(scores, float)), missing


def accuracy_facts(verdicts: Verdicts, seed: int) -> Facts:
    """Steps and answers, each with balanced and plain accuracy, and by how much the accuracy on answers is higher.

    Errors: InputError when one kind of tag is missing.
    """
    steps, answers = verdicts.where(~verdicts.is_answer), verdicts.where(verdicts.is_answer)
    sums = np.concatenate([_counts(verdicts, kept) for kept in (~verdicts.is_answer, verdicts.is_answer)], axis=1)

    def balanced(start: int) -> Callable[[Floats], Floats]:
        return lambda totals: (
            (totals[:, start] / totals[:, start + 1] + totals[:, start + 2] / totals[:, start + 3]) / 2
        )

    def ahead(totals: Floats) -> Floats:
        return balanced(4)(totals) - balanced(0)(totals)

    apart = bootstrap_clusters(sums, ahead, seed)
    return {
        "steps": _accuracy_of(steps, bootstrap_clusters(sums, balanced(0), seed)),
        "answers": _accuracy_of(answers, bootstrap_clusters(sums, balanced(4), seed)),
        "answers_minus_steps": {
            "difference": float(ahead(sums.sum(0, keepdims=True))[0]),
            "ci_low": apart.low,
            "ci_high": apart.high,
        },
    }


def _counts(verdicts: Verdicts, kept: Bools) -> Floats:
    """For each problem: good tags called good, good tags, bad tags called bad, bad tags."""
    right, good = verdicts.right, verdicts.good
    kinds = (good & right, good, ~good & right, ~good)
    problems = int(verdicts.problem.max()) + 1
    return np.stack([np.bincount(verdicts.problem[kept & kind], minlength=problems) for kind in kinds], 1).astype(float)


def _accuracy_of(tags: Verdicts, interval: Interval) -> Facts:
    even_weights(tags.good)  # both kinds are there, or it says which is not
    found, alarms = float(tags.right[~tags.good].mean()), float((~tags.right[tags.good]).mean())
    return {
        "tags": int(tags.good.size),
        "good": float(tags.good.mean()),
        "accuracy": (found + 1 - alarms) / 2,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "unbalanced_accuracy": float(tags.right.mean()),
        "bad_found": found,
        "false_alarms": alarms,
        "auc": roc_auc(tags.scores, tags.good),
    }


def calibration_facts(verdicts: Verdicts, seed: int) -> Facts:
    """Calibration over all tags, steps and answers alike, with good and bad counting the same, and as they come."""
    interval = bootstrap_clusters(_bin_sums(verdicts), _balanced_ece, seed)
    facts = {
        name: _errors(verdicts.scores, verdicts.good, weigh(verdicts.good))
        for name, weigh in (("balanced", even_weights), ("unbalanced", same_weights))
    }
    return {**facts["balanced"], "ci_low": interval.low, "ci_high": interval.high, "unbalanced": facts["unbalanced"]}


def _errors(scores: Floats, good: Bools, weights: Floats) -> Facts:
    return {
        "ece": reliability(scores, good, weights, equal_width(scores)).ece,
        "ece_adaptive": reliability(scores, good, weights, equal_mass(scores, weights)).ece,
        "brier": brier(scores, good, weights),
    }


def _bin_sums(verdicts: Verdicts) -> Floats:
    """For each problem, by bin: good tags, bad tags, scores of good tags, scores of bad tags."""
    problems = int(verdicts.problem.max()) + 1
    place = verdicts.problem * BINS + equal_width(verdicts.scores)
    parts = [
        np.bincount(place[kind], weights[kind], problems * BINS).reshape(problems, BINS)
        for weights in (np.ones(place.size), verdicts.scores)
        for kind in (verdicts.good, ~verdicts.good)
    ]
    return np.concatenate(parts, axis=1).astype(float)


def _balanced_ece(totals: Floats) -> Floats:
    good, bad, good_scores, bad_scores = np.split(totals, 4, axis=1)
    all_good, all_bad = good.sum(1, keepdims=True), bad.sum(1, keepdims=True)
    score = good_scores / all_good + bad_scores / all_bad
    return np.abs(score - good / all_good).sum(1) / 2


def balanced_curve(verdicts: Verdicts, correction: Platt | None = None) -> Reliability:
    """What a reliability plot shows."""
    scores = verdicts.scores if correction is None else correction(verdicts.scores)
    return reliability(scores, verdicts.good, even_weights(verdicts.good), equal_width(scores))


@dataclass(frozen=True)
class Corrected:
    """Corrections fitted on some problems and tried on the others."""

    facts: Facts
    tried: Verdicts
    platt: Platt


def corrected(verdicts: Verdicts, share: float, seed: int) -> Corrected:
    """Fits a temperature, and a scale with a bias, on ``share`` of the problems; measures on those left.

    Errors: InputError when one of the two parts lacks a kind of tag.
    """
    problems = np.random.default_rng(seed).permutation(int(verdicts.problem.max()) + 1)
    fitting = np.isin(verdicts.problem, problems[: round(share * problems.size)])
    mine, tried = verdicts.where(fitting), verdicts.where(~fitting)
    weights, others = even_weights(mine.good), even_weights(tried.good)
    fits = {name: fit_platt(mine.scores, mine.good, weights, bias=bias) for name, bias in KINDS}
    facts: Facts = {
        "fitted_on_tags": int(mine.good.size),
        "tried_on_tags": int(tried.good.size),
        "before": _errors(tried.scores, tried.good, others),
    }
    for name, fit in fits.items():
        facts[name] = {"scale": fit.scale, "bias": fit.bias, **_errors(fit(tried.scores), tried.good, others)}
    return Corrected(facts, tried, fits["platt"])


KINDS = (("temperature", False), ("platt", True))
"""Corrections by name, and whether they have a bias."""
