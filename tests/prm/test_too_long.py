"""Formats that show the PRM a prompt for each chain: one that its context has no room for is unscored and told, and
no fault of the question."""

import pytest

from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import OpenVocabulary
from cos.prm.matching import match
from cos.search.errors import EngineError
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.ports import Ability, HeadRead
from cos.search.result import Result
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.types import Prefix, Question

TOLD = "longer than the PRM's context has room for"


class Rewarding(ScriptedEngine):
    """With a head of one value beside its words."""

    head_width = 1

    @property
    def abilities(self) -> frozenset[Ability]:
        return frozenset(("head", "labels", "text"))

    async def read_head(self, prefix: Prefix, priority: int) -> HeadRead:
        del prefix, priority
        return HeadRead((1.0,), 1, 0)


async def solved(prm_format: str) -> Result:
    vocabulary = OpenVocabulary()
    policy = ScriptedEngine(Script(grammar=ParagraphGrammar(vocabulary)), vocabulary=vocabulary)
    prm = Rewarding(context_tokens=20, vocabulary=OpenVocabulary())
    models = match(policy, prm, grammar="paragraph", prm_format=prm_format)
    return await solve(Question("How many?"), SearchSpec("best_of_n", {"n": 3}, score="prm"), models)


@pytest.mark.parametrize("prm_format", ["pointwise", "pairwise"])
async def test_an_answer_that_has_no_room_is_unscored_and_told_once(prm_format: str) -> None:
    result = await solved(prm_format)
    assert result.chain.answer is not None
    assert result.chain.answer_score is None
    (told,) = [warning for warning in result.warnings if TOLD in warning]
    assert int(told.split()[0]) <= 3
    assert result.usage.requests_failed == 0


@pytest.mark.parametrize("prm_format", ["thinkprm", "genprm"])
async def test_where_no_step_has_room_for_a_verdict_nothing_that_was_asked_is_to_blame(prm_format: str) -> None:
    with pytest.raises(EngineError, match=TOLD):
        await solved(prm_format)
