"""What a policy writes before its answer, in one piece with it, is shown to whoever judges the answer."""

import random

import pytest

from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.prm.matching import match
from cos.search.grammars.cos import STEP_TAG, Step, answer_text, step_text
from cos.search.prompt import Prompt
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.types import Question


@pytest.mark.parametrize("steps", [0, 1])
async def test_the_cos_format_shows_it_as_the_last_step_as_in_training(steps: int) -> None:
    def reason(prompt: Prompt, written: str, rng: random.Random) -> str:
        del prompt, rng
        return "4 + 5 = 9.\nFinal answer: 9" if written.count("\n\n") == steps else "I count 4.\n\n"

    shown: list[str] = []

    def judge(prompt: Prompt, written: str) -> float:
        del prompt
        shown.append(written)
        return 0.5

    policy = ScriptedEngine(Script(writer=reason), vocabulary=ScriptedVocabulary(()))
    models = match(policy, ScriptedEngine(Script(judge=judge)), grammar="paragraph")
    await solve(Question("How much is it?"), SearchSpec("best_of_n", {"n": 1}), models)
    said = [*["I count 4."] * steps, "4 + 5 = 9."]
    texts = [step_text(Step("", text, ""), first=number == 0) for number, text in enumerate(said)]
    assert shown[-1] == "".join(f"{text}{STEP_TAG}" for text in [*texts, answer_text("9", first=False)])


async def test_self_critique_reads_it() -> None:
    asked: list[str] = []

    def reason(prompt: Prompt, written: str, rng: random.Random) -> str:
        del written
        if "Criticise" in prompt.asked or "Which candidate" in prompt.asked:
            asked.append(prompt.asked)
            return "1"
        return f"{rng.choice('34')} + 5.\nFinal answer: 9"

    models = match(ScriptedEngine(Script(writer=reason)), None, grammar="paragraph")
    await solve(Question("How much?"), SearchSpec("self_critique", {"n": 8}, score="likelihood"), models)
    assert "3 + 5.\nAnswer: 9" in asked[-1]
    assert "4 + 5.\nAnswer: 9" in asked[-1]
