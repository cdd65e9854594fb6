"""Settings of evaluated searches."""

from dataclasses import dataclass, replace

import pytest

from cos.benchmarks.setting import Setting, parse_baseline
from cos.evaluation.accuracy import root_seed
from cos.evaluation.in_process import prm_for, score_kind
from cos.search.errors import InputError
from cos.search.models import Models
from cos.search.ports import ScorerSession
from cos.search.scale import Scale
from cos.search.types import Question


@dataclass(frozen=True)
class OnScale:
    """A PRM that only tells what its scores mean."""

    scale: Scale

    async def open(self, question: Question) -> ScorerSession:
        raise NotImplementedError


def test_problems_have_seeds_of_their_own_that_follow_from_the_root():
    seeds = {root_seed(seed, f"ledger-{index}") for seed in range(3) for index in range(100)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_strategy_without_a_width_gets_none():
    assert Setting(strategy="greedy", n=8).fitted().n is None
    assert Setting(strategy="bon", n=8).fitted() == Setting(strategy="best_of_n", n=8)


def test_a_baseline_differs_in_strategy_and_width_alone():
    ours = Setting(strategy="beam", n=8, beam_width=4, temperature=0.5, score="likelihood")
    assert parse_baseline("best_of_n@1", ours) == Setting(
        strategy="best_of_n", n=1, temperature=0.5, score="likelihood"
    )
    assert parse_baseline("self_consistency", ours).n == 8
    assert parse_baseline("greedy@3", ours).n is None


@pytest.mark.parametrize("text", ["best_of_n@", "best_of_n@0", "best_of_n@x", "best_of_m@2"])
def test_a_baseline_that_cannot_be_read_is_named(text: str):
    with pytest.raises(InputError, match=text.partition("@")[0]):
        parse_baseline(text, Setting(strategy="beam", n=8))


@pytest.mark.parametrize(
    ("setting", "param"),
    [
        (Setting(strategy="bem"), "strategy"),
        (Setting(strategy="greedy", n=2), "n"),
        (Setting(strategy="beam", n=2, beam_width=3), "beam"),
        (Setting(strategy="beam", temperature=float("nan")), "temperature"),
        (Setting(strategy="beam", top_p=0.0), "top_p"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(setting: Setting, param: str):
    with pytest.raises(InputError) as caught:
        setting.spec(0)
    assert caught.value.param == param


def test_embedded_policies_bring_their_prm_and_others_must_name_one():
    assert prm_for("cos-tiny", None) == "cos-tiny"
    assert prm_for("scripted", "none") == "none"
    with pytest.raises(InputError, match="needs a --prm"):
        prm_for("some/policy", None)


def test_without_a_prm_the_likelihood_ranks():
    assert score_kind(None, "none") == "likelihood"
    assert score_kind(None, "scripted") == "prm"
    assert score_kind("likelihood", "scripted") == "likelihood"
    with pytest.raises(InputError, match="needs a PRM"):
        score_kind("prm", "none")


def test_a_report_names_the_aggregation_in_force(scripted: Models):
    setting = Setting(strategy="best_of_n", n=2)
    assert setting.facts()["aggregation"] is None, "nobody knows before there is a PRM"
    assert setting.under(scripted).facts()["aggregation"] == "cos"
    other = replace(scripted, scorer=OnScale(Scale(aggregation="min")))
    assert setting.under(other).facts()["aggregation"] == "min", "the PRM's own"
    assert replace(setting, aggregation="last").under(other).facts()["aggregation"] == "last", "as it was asked for"
