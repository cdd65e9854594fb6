"""Step and answer accuracy with balanced classes."""

import math

import numpy as np
import pytest

from cos.evaluation.verdicts import (
    Labelled,
    Verdicts,
    accuracy_facts,
    balanced_curve,
    calibration_facts,
    corrected,
    verdicts_of,
)
from cos.search.errors import InputError


def judged(problems: int = 200, seed: int = 0, times: float = 1.0) -> list[Labelled]:
    """Chains whose scores are probabilities of the label (log-odds ``times`` too large)."""
    rng = np.random.default_rng(seed)
    found: list[Labelled] = []
    for problem in range(problems):
        for _ in range(2):
            p = rng.uniform(0.02, 0.98, 4)
            scores = 1 / (1 + (1 / p - 1) ** times)
            found.append(
                Labelled(f"p{problem}", [float(s) for s in scores], [bool(g) for g in rng.uniform(size=4) < p])
            )
    return found


def verdicts(chains: list[Labelled]) -> Verdicts:
    return verdicts_of(chains)[0]


def test_the_last_tag_of_a_chain_is_its_answer():
    found = verdicts([Labelled("a", [0.9, 0.8, 0.1], [True, True, False]), Labelled("b", [0.2], [True])])
    assert found.is_answer.tolist() == [False, False, True, True]
    assert found.problem.tolist() == [0, 0, 0, 1]
    assert found.right.tolist() == [True, True, True, False]


def test_calling_everything_good_is_worth_one_half_however_many_are_good():
    chains = [Labelled(f"p{i}", [0.9, 0.9], [i > 0, i > 0]) for i in range(10)]
    facts = accuracy_facts(verdicts(chains), 0)
    for part in ("steps", "answers"):
        assert facts[part]["accuracy"] == 0.5
        assert facts[part]["unbalanced_accuracy"] == 0.9
        assert (facts[part]["bad_found"], facts[part]["false_alarms"]) == (0, 0)
        assert facts[part]["good"] == 0.9


def test_steps_and_answers_are_told_apart():
    """Steps are always told rightly, answers never."""
    chains = [Labelled(f"p{i}", [0.9 * (i % 2), 0.9 * (1 - i % 2)], [i % 2 == 1] * 2) for i in range(10)]
    facts = accuracy_facts(verdicts(chains), 0)
    assert (facts["steps"]["accuracy"], facts["answers"]["accuracy"]) == (1, 0)
    assert (facts["steps"]["auc"], facts["answers"]["auc"]) == (1, 0)
    assert facts["answers_minus_steps"] == {"difference": -1.0, "ci_low": -1.0, "ci_high": -1.0}


def test_the_interval_holds_the_figure_and_is_wider_for_fewer_problems():
    widths: list[float] = []
    for problems in (20, 400):
        steps = accuracy_facts(verdicts(judged(problems)), 0)["steps"]
        assert steps["ci_low"] < steps["accuracy"] < steps["ci_high"]
        widths.append(steps["ci_high"] - steps["ci_low"])
    assert widths[0] > 2 * widths[1]


def test_a_missing_score_is_counted_not_taken_for_a_zero():
    found, missing = verdicts_of([Labelled("a", [None, math.nan, 0.9], [False, True, True])])
    assert missing == 2
    assert found.scores.tolist() == [0.9]
    with pytest.raises(InputError, match="none of the 1 tags"):
        verdicts_of([Labelled("a", [None], [True])])


def test_scores_that_do_not_line_up_with_labels_are_an_error():
    with pytest.raises(InputError, match="2 scores for 1 labels"):
        verdicts_of([Labelled("a", [0.1, 0.2], [True])])


def test_a_part_without_bad_tags_is_an_error_not_a_number():
    with pytest.raises(InputError, match="no bad tag"):
        accuracy_facts(verdicts([Labelled("a", [0.9, 0.9], [True, True])]), 0)


def test_calibration_is_balanced_over_kinds_and_the_bootstrap_measures_the_same():
    facts = calibration_facts(verdicts(judged(400)), 0)
    assert facts["ece"] < 0.06
    assert facts["ece"] == pytest.approx(balanced_curve(verdicts(judged(400))).ece)
    assert facts["ci_low"] <= facts["ece"] * 1.5
    assert facts["ci_low"] < facts["ci_high"] < 0.1
    bold = calibration_facts(verdicts(judged(400, times=4)), 0)
    assert bold["ece"] > 0.1
    assert bold["brier"] > facts["brier"]


def test_a_correction_is_tried_on_problems_it_was_not_fitted_on():
    whole = verdicts(judged(400, times=3))
    found = corrected(whole, 0.5, 0)
    assert found.facts["fitted_on_tags"] + found.facts["tried_on_tags"] == whole.good.size
    assert found.facts["fitted_on_tags"] == pytest.approx(whole.good.size / 2, rel=0.01)
    for name in ("temperature", "platt"):
        assert found.facts[name]["scale"] == pytest.approx(1 / 3, rel=0.2)
        assert found.facts[name]["ece"] < found.facts["before"]["ece"] / 2
    assert found.facts["temperature"]["bias"] == 0
    assert balanced_curve(found.tried, found.platt).ece == pytest.approx(found.facts["platt"]["ece"])
