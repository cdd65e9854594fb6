"""A stored search made again comes to the same decisions."""

import random
from dataclasses import replace
from typing import Any

import pytest

from cos.engines.replay import replay
from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.engines.story import story
from cos.prm.matching import match
from cos.search.errors import EngineError
from cos.search.grammar import Grammar
from cos.search.grammars.cos import CosGrammar
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.models import Models
from cos.search.prompt import Prompt
from cos.search.result import Result
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.strategies import menu
from cos.search.terms import Sampling
from cos.search.types import Candidate, Question

ASKS_THE_POLICY = "self_critique"
"""What a policy was asked beside the tree is not stored."""


async def search(strategy: str, seed: int, models: Models) -> Result:
    params = {"n": 4} if "n" in menu()[strategy].params.model_fields else {}
    asked = SearchSpec(strategy, params, sampling=Sampling(seed=seed))
    return await solve(Question("How much?"), asked, models)


def scripted(grammar: type[Grammar], script: Script | None = None) -> Models:
    """A policy that writes its story in a grammar, and a PRM."""
    policy = ScriptedEngine(script or Script(grammar=grammar(ScriptedVocabulary())))
    models = match(policy, ScriptedEngine())
    return replace(models, grammar=grammar(policy.vocabulary))


def stored(candidate: Candidate) -> dict[str, Any]:
    """As a trace has it."""
    return {
        "path": list(candidate.path),
        "end": candidate.end,
        "text": candidate.piece.text,
        "fields": dict(candidate.piece.fields),
        "answer": candidate.answer,
        "score": candidate.score,
    }


def again(first: Result, grammar: type[Grammar]) -> Models:
    """The same search's models, of what is stored of it."""
    trace = {
        "grammar": grammar.name,
        "scale": {"is_probability": True, "threshold": 0.5, "lowest": 0.0, "highest": 1.0},
        "parameters": {"seed": 11, "aggregation": first.ruler.aggregation, "step_weight": first.ruler.step_weight},
        "tree": [stored(candidate) for candidate in first.tree],
    }
    return replay(trace)


@pytest.mark.parametrize("grammar", [CosGrammar, ParagraphGrammar])
@pytest.mark.parametrize("strategy", sorted(set(menu()) - {ASKS_THE_POLICY}))
async def test_every_strategy_decides_as_it_did(strategy: str, grammar: type[Grammar]) -> None:
    first = await search(strategy, 11, scripted(grammar))
    second = await search(strategy, 11, again(first, grammar))
    assert first.chain.path
    assert second.chain.path == first.chain.path
    assert second.finish_reason == first.finish_reason
    assert [stored(candidate) for candidate in second.tree] == [stored(candidate) for candidate in first.tree]


async def test_what_the_grammar_could_not_read_is_written_as_it_was() -> None:
    def mumble(prompt: Prompt, written: str, rng: random.Random) -> str:
        return "I <do> not know" if rng.random() < 0.5 else story(prompt, written, rng)

    first = await search("best_of_n", 11, scripted(CosGrammar, Script(writer=mumble)))
    second = await search("best_of_n", 11, again(first, CosGrammar))
    assert "broken" in {candidate.end for candidate in first.tree}
    assert [stored(candidate) for candidate in second.tree] == [stored(candidate) for candidate in first.tree]


async def test_what_stands_beside_an_answer_is_written_again() -> None:
    def reason(prompt: Prompt, written: str, rng: random.Random) -> str:
        del prompt
        return f"{rng.choice('34')} + 5.\nFinal answer: 9" if written else f"I count {rng.randint(1, 3)}.\n\n"

    first = await search("weighted_vote", 11, scripted(ParagraphGrammar, Script(writer=reason)))
    second = await search("weighted_vote", 11, again(first, ParagraphGrammar))
    assert {candidate.piece.fields.get("reasoning") for candidate in first.tree if candidate.answer} == {
        "3 + 5.",
        "4 + 5.",
    }
    assert [stored(candidate) for candidate in second.tree] == [stored(candidate) for candidate in first.tree]


async def test_a_strategy_that_asks_for_more_than_was_drawn_is_told() -> None:
    first = await search("greedy", 11, scripted(CosGrammar))
    with pytest.raises(EngineError):
        await search("best_of_n", 11, again(replace(first, tree=first.tree[:1]), CosGrammar))
