"""What is recorded of engines, and that caches are really emptied between measurements."""

from typing import cast

import pytest

from cos.benchmarks.caches import caches_of
from cos.benchmarks.limit import Log, Recorded, floor, one_round
from cos.benchmarks.setting import Setting
from cos.checkpoints import LedgerProblem
from cos.engines.launch import Engines
from cos.engines.ports import Runtime
from cos.engines.scripted import Script, ScriptedEngine
from cos.evaluation.in_process import open_models
from cos.search.errors import InputError
from cos.search.ports import Draw, Policy, PolicySession, Stops
from cos.search.prompt import Prompt, question_prompt
from cos.search.types import Question

PROMPT = question_prompt(Question("What is the total?"))


class Remote:
    """A policy without further abilities, as one of another process would be."""

    def __init__(self) -> None:
        self._engine = ScriptedEngine()
        self.vocabulary = self._engine.vocabulary
        self.context_tokens = self._engine.context_tokens

    async def open(self, prompt: Prompt) -> PolicySession:
        return await self._engine.open(prompt)


async def test_requests_of_every_kind_are_made_again():
    policy, prm = ScriptedEngine(), ScriptedEngine()
    draws, reads = Log(), Log()
    writing, reading = await Recorded(policy, draws).open(PROMPT), await Recorded(prm, reads).open(PROMPT)
    drawn = await writing.draw((), Draw(max_tokens=64, stops=Stops(), seed=1))
    head, labels = await reading.read_head(drawn.written, 0), await reading.read_labels(drawn.written, (1, 2), 0)
    assert len(head.values) == 1
    assert len(labels.logprobs) == 2
    assert (policy.steps, prm.steps) == (1, 2)
    await floor(Engines(policy, prm), draws, reads, 2, 2)
    assert (policy.steps, prm.steps) == (2, 4)


async def test_a_policy_that_judges_itself_stands_in_both_places(problems: list[LedgerProblem]):
    async with open_models("scripted", "judge") as opened:
        found = await one_round(opened, problems[:1], Setting(strategy="beam", n=2), 1, 0)
        steps = opened.engines.policy.steps
    assert steps == 2 * found.requests


def test_a_recorded_engine_is_as_busy_as_the_engine_and_one_that_does_not_tell_has_room():
    assert Recorded(ScriptedEngine(Script(sequences=0)), Log()).is_saturated
    assert not Recorded(ScriptedEngine(), Log()).is_saturated
    remote: Policy = Remote()
    assert not Recorded(cast("Runtime", remote), Log()).is_saturated


def test_caches_that_cannot_be_emptied_are_told_and_not_passed_over():
    with pytest.raises(InputError, match="Remote cannot empty its caches"):
        caches_of(cast("Runtime", Remote()))
