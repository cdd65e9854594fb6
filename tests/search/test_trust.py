"""What a reply says of its own answer: nothing where it is believed, else why not."""

import math

import pytest

from cos.engines.scripted import ScriptedEngine
from cos.prm.matching import match
from cos.search.run import solve
from cos.search.scale import Aggregation
from cos.search.select import Ruler
from cos.search.spec import SearchSpec
from cos.search.trust import answer_warnings
from cos.search.types import Question
from tests.search.test_select import chain_of

LOW = math.log(0.3)


@pytest.mark.parametrize("aggregation", ["cos", "mean", "min", "prod", "last"])
@pytest.mark.parametrize("scores", [[0.9, 0.9], [0.2, 0.9], [0.9, 0.3], [0.2, 0.2], [0.5], [0.49]], ids=str)
def test_an_answer_is_doubted_when_its_score_or_its_confidence_is_low(
    scores: list[float | None], aggregation: Aggregation
) -> None:
    chain, ruler = chain_of(scores), Ruler("prm", aggregation)
    confidence, answer_score = ruler.confidence(chain), chain.answer_score
    assert confidence is not None
    assert answer_score is not None
    assert bool(answer_warnings(chain, ruler)) == (confidence < 0.5 or answer_score < 0.5)


def test_a_chain_without_an_answer_says_how_it_ended() -> None:
    chain = chain_of([0.9, 0.9], answer=None, end="truncated")
    assert answer_warnings(chain, Ruler("prm", "cos")) == ["there is no answer: the best chain ended with 'truncated'"]


def test_a_likelihood_is_doubted_by_what_a_token_has_and_not_by_the_length_of_the_text() -> None:
    ruler = Ruler("likelihood", "mean")
    # A candidate of chain_of has 2 tokens.
    doubted = chain_of([None, None], logprob=2 * LOW)
    believed = chain_of([None] * 40, logprob=2 * math.log(0.9))
    assert answer_warnings(doubted, ruler)[0].startswith("the confidence is 0.30 of 1 (what the policy gives a token")
    assert answer_warnings(believed, ruler) == []


def test_what_is_unscored_is_not_called_doubtful() -> None:
    assert answer_warnings(chain_of([0.9, None]), Ruler("prm", "cos")) == []


async def test_chains_that_the_prm_has_no_room_for_are_asked_about_once_and_told() -> None:
    policy = ScriptedEngine()
    prm = ScriptedEngine(context_tokens=250)
    models = match(policy, prm)
    result = await solve(Question("How much?"), SearchSpec("best_of_n", {"n": 2}), models)
    scores = [candidate.score for candidate in result.chain.candidates]
    assert scores[0] is not None
    assert scores[-1] is None
    assert result.usage.requests_failed == 0
    assert any("chains are longer than the PRM's context has room for" in warning for warning in result.warnings)
