"""How scores become an order: the paper's formula, no winner without a score, no tie left to chance."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cos.search.scale import Aggregation
from cos.search.select import Ruler, finite, likelihood_score, rank, rank_level
from cos.search.types import Candidate, Chain, End, Path, Piece

SCORES = st.one_of(st.none(), st.floats(0, 1), st.sampled_from([math.nan, math.inf, -math.inf]))


def chain_of(
    scores: list[float | None],
    *,
    answer: str | None = "15",
    end: End = "step",
    root: int = 0,
    tokens: int = 2,
    logprob: float | None = None,
) -> Chain:
    """A chain of one candidate a score; the last is the answer, or without one ends with ``end``."""
    candidates: list[Candidate] = []
    path: Path = ()
    for index, score in enumerate(scores):
        path = (*path, root if index == 0 else 0)
        is_last = index == len(scores) - 1
        candidates.append(
            Candidate(
                path=path,
                written=tuple(range(tokens)),
                tokens=tokens,
                piece=Piece("answer", answer) if is_last and answer is not None else Piece("step", ""),
                end="answer" if is_last and answer is not None else end if is_last else "step",
                score=score,
                logprob=logprob,
            )
        )
    return Chain(tuple(candidates))


def test_a_cos_chain_is_worth_one_fifth_of_its_steps_mean_and_four_fifths_of_its_answer() -> None:
    ruler = Ruler("prm", "cos")
    assert ruler.value(chain_of([0.5, 0.7, 0.9])) == pytest.approx(0.2 * 0.6 + 0.8 * 0.9)
    assert ruler.value(chain_of([0.9])) == 0.9


def test_an_unanswered_chain_is_worth_its_steps_mean_so_far() -> None:
    assert Ruler("prm", "cos").value(chain_of([0.5, 0.7], answer=None)) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("aggregation", "value"),
    [("cos", 0.2 * 0.3 + 0.8 * 0.5), ("mean", 1.1 / 3), ("min", 0.2), ("prod", 0.04), ("last", 0.5)],
)
def test_each_aggregation_measures_as_its_name_says(aggregation: Aggregation, value: float) -> None:
    assert Ruler("prm", aggregation).value(chain_of([0.4, 0.2, 0.5])) == pytest.approx(value)


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_the_step_weight_moves_the_value_from_answer_to_steps(weight: float) -> None:
    value = Ruler("prm", "cos", weight).value(chain_of([0.4, 0.2, 0.9]))
    assert value == pytest.approx(weight * 0.3 + (1 - weight) * 0.9)


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("aggregation", ["cos", "mean", "min", "prod", "last"])
def test_a_chain_with_one_unusable_score_has_no_value(aggregation: Aggregation, bad: float | None) -> None:
    assert Ruler("prm", aggregation).value(chain_of([0.9, bad, 0.9])) is None
    assert finite(bad) is None


def test_the_empty_chain_has_no_value() -> None:
    assert Ruler("prm", "cos").value(Chain()) is None
    assert Ruler("likelihood", "mean").value(Chain()) is None
    assert Ruler("prm", "cos").newest(Chain()) is None


def test_a_likelihood_is_the_log_probability_of_the_whole_text_and_its_confidence_that_of_a_token() -> None:
    ruler = Ruler("likelihood", "mean")
    chain = chain_of([None, None], logprob=-0.5)
    assert ruler.value(chain) == pytest.approx(-1.0)
    assert ruler.confidence(chain) == pytest.approx(math.exp(-1.0 / 4))
    assert ruler.value(chain_of([0.9], logprob=None)) is None
    assert ruler.confidence(chain_of([0.9], logprob=None)) is None


@given(st.floats(-3, -0.01), st.integers(1, 400))
def test_a_likelihood_s_confidence_does_not_shrink_with_the_length_of_the_text(mean: float, tokens: int) -> None:
    ruler = Ruler("likelihood", "mean")
    confidence = ruler.confidence(chain_of([None, None], tokens=tokens, logprob=mean * tokens))
    assert confidence == pytest.approx(math.exp(mean))


def test_the_likelihood_score_of_a_step_is_per_token_so_that_length_does_not_count() -> None:
    assert likelihood_score(chain_of([None], tokens=4, logprob=-2.0).candidates[0]) == pytest.approx(-0.5)
    assert likelihood_score(chain_of([None], tokens=4, logprob=math.nan).candidates[0]) is None


@given(st.lists(SCORES, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_no_unscored_chain_stands_before_a_scored_one(scores: list[float | None], shuffler: random.Random) -> None:
    chains = [chain_of([score], root=index) for index, score in enumerate(scores)]
    shuffler.shuffle(chains)
    for ranked in (rank(chains, Ruler("prm", "cos")), rank_level(chains, Ruler("prm", "cos").newest)):
        values = [finite(chain.candidates[-1].score) for chain in ranked]
        known = [value for value in values if value is not None]
        assert values == [*known, *[None] * (len(values) - len(known))]
        assert known == sorted(known, reverse=True)


@given(st.lists(SCORES, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_order_is_total_whatever_order_chains_arrive_in(
    scores: list[float | None], shuffler: random.Random
) -> None:
    chains = [chain_of([score], root=index) for index, score in enumerate(scores)]
    ordered = rank(chains, Ruler("prm", "cos"))
    shuffler.shuffle(chains)
    assert rank(chains, Ruler("prm", "cos")) == ordered


def test_an_answered_chain_stands_before_a_better_scored_unanswered_one() -> None:
    poor, promising = chain_of([0.1], root=1), chain_of([0.9], answer=None)
    assert rank([promising, poor], Ruler("prm", "cos")) == [poor, promising]


def test_an_answered_chain_without_a_score_stands_before_an_unanswered_one() -> None:
    unscored, promising = chain_of([math.nan], root=1), chain_of([0.9], answer=None)
    assert rank([promising, unscored], Ruler("prm", "cos"))[0] is unscored


def test_fewer_tokens_break_a_tie_of_scores_and_the_earlier_path_a_tie_of_both() -> None:
    long, short = chain_of([0.5], root=0, tokens=9), chain_of([0.5], root=1, tokens=3)
    twin = chain_of([0.5], root=2, tokens=3)
    assert rank([long, twin, short], Ruler("prm", "cos")) == [short, twin, long]


@pytest.mark.parametrize("end", ["broken", "truncated", "max_steps"])
def test_what_cannot_be_used_stands_last_on_its_level(end: End) -> None:
    dead, going, unscored = chain_of([0.9], answer=None, end=end), chain_of([0.1], root=1), chain_of([None], root=2)
    assert rank_level([dead, going, unscored], Ruler("prm", "cos").newest) == [going, unscored, dead]


def test_a_level_ranks_answers_and_steps_by_score_alone() -> None:
    step, answer = chain_of([0.9], answer=None, root=1), chain_of([0.5])
    assert rank_level([answer, step], Ruler("prm", "cos").newest) == [step, answer]
