"""Scores on scales of any kind: a confidence is from 0 to 1 or none, and nothing is measured on what is no scale."""

import math
import random
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import pytest

from cos.engines.scripted import ScriptedEngine
from cos.prm.matching import match
from cos.search.errors import EngineError, InputError
from cos.search.events import Proposed
from cos.search.models import Models
from cos.search.ports import Reading
from cos.search.result import Result
from cos.search.run import run, solve
from cos.search.scale import Scale
from cos.search.spec import SearchSpec
from cos.search.strategies import menu, resolve
from cos.search.types import Chain, Question

EVERY = sorted(menu())
QUESTION = Question("How much is it?")
ENDLESS = Scale(aggregation="last", lowest=-math.inf, highest=math.inf, threshold=None, is_probability=False)
NEGATIVE = Scale(aggregation="mean", lowest=-10, highest=0, threshold=None, is_probability=False)


@dataclass(frozen=True)
class Scores:
    """A scorer of any scale, whose scores follow from the place alone."""

    scale: Scale
    score_at: Callable[[float], float]
    """Of a number from 0 to 1."""

    async def open(self, question: Question) -> "Scores":
        del question
        return self

    async def score(self, chain: Chain) -> Reading:
        return Reading(self.score_at(random.Random(str(chain.path)).random()), 1, 0)


def models(scorer: Scores) -> Models:
    return replace(match(ScriptedEngine(), None), scorer=scorer)


async def found(strategy: str, scorer: Scores, **spec: Any) -> Result:
    params = {"n": 4} if "n" in resolve(strategy).params.model_fields else {}
    return await solve(QUESTION, SearchSpec(strategy, params, **spec), models(scorer))


@pytest.mark.parametrize("strategy", EVERY)
@pytest.mark.parametrize("aggregation", ["cos", "mean", "min", "last"])
async def test_a_confidence_is_from_0_to_1_on_a_negative_scale(strategy: str, aggregation: Any) -> None:
    result = await found(strategy, Scores(NEGATIVE, lambda u: 10 * u - 10), aggregation=aggregation)
    confidence = result.ruler.confidence(result.chain)
    assert confidence is not None
    assert 0 <= confidence <= 1


async def test_scores_that_are_not_on_the_scale_are_no_scores() -> None:
    beyond = Scores(Scale(aggregation="mean"), lambda u: 1.5 + u)
    with pytest.raises(
        EngineError, match="failed to score 16 of 16 candidates; 16 of the PRM's numbers are not on its format's scale"
    ):
        await found("beam", beyond)
    result = await found("greedy", beyond)
    assert {candidate.score for candidate in result.tree} == {None}
    assert "4 of the PRM's numbers are not on its format's scale, and were not used" in result.warnings


def test_rounding_beyond_an_end_is_that_end() -> None:
    scale = Scale(aggregation="mean")
    assert scale.usable(1 + 1e-9) == 1
    assert scale.usable(-1e-9) == 0
    assert scale.usable(1.001) is None
    assert [scale.usable(score) for score in (None, math.nan, math.inf)] == [None] * 3
    assert ENDLESS.usable(-1e9) == -1e9


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"lowest": 1, "highest": 1}, "has no room"),
        ({"lowest": 1, "highest": 0}, "has no room"),
        ({"lowest": math.nan}, "has no room"),
        ({"threshold": 2}, "the threshold 2 is not on the scale from 0 to 1"),
        ({"threshold": math.nan}, "the threshold nan is not on the scale"),
        ({"step_weight": 2}, "step_weight = 2; give a share from 0 to 1"),
        ({"aggregation": "median"}, "unknown aggregation 'median'; there are cos, mean, min, prod, last"),
    ],
)
def test_what_is_no_scale_says_why(given: dict[str, Any], reason: str) -> None:
    whole: dict[str, Any] = {"aggregation": "mean", **given}
    with pytest.raises(ValueError, match=reason):
        Scale(**whole)


async def test_products_of_scores_that_are_no_shares_are_refused_before_any_work() -> None:
    scorer = Scores(NEGATIVE, lambda u: 10 * u - 10)
    with pytest.raises(InputError, match="aggregation = 'prod', but this PRM's scores go from -10 to 0"):
        await found("beam", scorer, aggregation="prod")
    assert (await found("beam", scorer, aggregation="prod", score="likelihood")).is_complete
    own = Scale(aggregation="prod", highest=10, is_probability=False)
    with pytest.raises(InputError, match="aggregation = 'prod', but this PRM's scores go from 0 to 10"):
        await found("beam", Scores(own, lambda u: 10 * u))


@pytest.mark.parametrize("strategy", EVERY)
async def test_a_strategy_that_cannot_weigh_scores_without_ends_says_so(strategy: str) -> None:
    result = await found(strategy, Scores(ENDLESS, lambda u: 20 * u - 10))
    warned = any("no lowest and highest value" in warning for warning in result.warnings)
    assert warned == (strategy in {"mcts", "particle", "rebase", "weighted_vote"})
    assert result.ruler.confidence(result.chain) is None


@pytest.mark.parametrize("strategy", EVERY)
async def test_a_candidate_is_told_of_as_it_was_however_late_the_event_is_read(strategy: str) -> None:
    params = {"n": 4} if "n" in resolve(strategy).params.model_fields else {}
    searching = run(QUESTION, SearchSpec(strategy, params), match(ScriptedEngine(), ScriptedEngine()))
    async with aclosing(searching) as events:
        seen = [event async for event in events]
    assert {event.candidate.score for event in seen if isinstance(event, Proposed)} == {None}


async def test_a_chain_in_a_set_is_found_again_once_it_is_scored() -> None:
    result = await found("beam", Scores(Scale(aggregation="mean"), lambda u: u))
    chains = {result.chain}
    result.chain.candidates[0].score = 0.0
    assert result.chain in chains
