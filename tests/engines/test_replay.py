"""A stored search made again comes to the same decisions."""

from typing import Any

import pytest

from cos.engines.replay import replay
from cos.engines.scripted import Script, ScriptedEngine
from cos.prm.pair import pair
from cos.search.errors import EngineError
from cos.search.result import Result
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.strategies import menu
from cos.search.terms import Sampling
from cos.search.types import Candidate, Question

ASKS_THE_POLICY = "self_critique"
"""What a policy was asked beside the tree is not stored."""


async def search(strategy: str, seed: int, script: Script | None = None, **spec: Any) -> Result:
    params = {"n": 4} if "n" in menu()[strategy].params.model_fields else {}
    pairing = pair(ScriptedEngine(script), ScriptedEngine(script))
    asked = SearchSpec(strategy, params, sampling=Sampling(seed=seed), **spec)
    return await solve(Question("How much?"), asked, pairing.policy, pairing.scorer, pairing.grammar)


def stored(candidate: Candidate) -> dict[str, Any]:
    step = candidate.step
    return {
        "path": list(candidate.path),
        "name": step and step.name,
        "thought": step and step.thought,
        "reflection": step and step.reflection,
        "answer": candidate.answer,
        "excerpt": None,
        "score": candidate.score,
    }


@pytest.mark.parametrize("strategy", sorted(set(menu()) - {ASKS_THE_POLICY}))
async def test_every_strategy_decides_as_it_did(strategy: str) -> None:
    first = await search(strategy, seed=11)
    again = await search(strategy, 11, replay([stored(candidate) for candidate in first.tree], 11))
    assert again.chain.path == first.chain.path
    assert [(c.path, c.text, c.end) for c in again.tree] == [(c.path, c.text, c.end) for c in first.tree]
    assert [c.score for c in again.tree] == pytest.approx([c.score for c in first.tree])
    assert again.finish_reason == first.finish_reason


async def test_a_strategy_that_asks_for_more_than_was_drawn_is_told() -> None:
    first = await search("greedy", seed=3)
    with pytest.raises(EngineError):
        await search("best_of_n", 3, replay([stored(candidate) for candidate in first.tree[:1]], 3))
