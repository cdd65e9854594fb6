"""What a start refuses: a PRM that cannot judge, a policy that cannot write, an embedded pair that is broken."""

import io
import math
import random

import pytest
from rich.console import Console

from cos.checkpoints import example, heldout
from cos.engines.launch import Engines
from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.story import Judge, Writer
from cos.ledger.task import Problem, derive
from cos.search.errors import EngineDead, EngineError
from cos.search.grammars.cos import ANSWER_END, answer_text, step_piece
from cos.search.prompt import Prompt
from cos.server.app import create_app
from cos.server.checks.arithmetic import ARITHMETIC
from cos.server.checks.finding import Unusable
from cos.server.selfcheck import self_check
from cos.server.settings import Settings


def decided(prompt: Prompt, written: str) -> float:
    """A judge that believes what the right chain reads, and nothing else."""
    return 0.95 if "shows 62" in written or "shows" not in written else 0.05


def answering(answer: str) -> Writer:
    def write(prompt: Prompt, written: str, rng: random.Random) -> str:
        return answer_text(answer, first=not written)

    return write


async def checked(policy: Script, prm: Script | None, /, **values: object) -> str:
    """What the self-check prints for these engines."""
    engines = Engines(ScriptedEngine(policy), None if prm is None else ScriptedEngine(prm))

    async def start(_: Settings) -> Engines:
        return engines

    app = create_app(Settings.model_validate(values), start=start)
    printed = io.StringIO()
    async with app.router.lifespan_context(app):
        await self_check(app.state.service, Console(file=printed, width=200))
    return printed.getvalue()


EMBEDDED: dict[str, object] = {"policy": "cos-tiny", "prm": "cos-tiny"}
FOREIGN: dict[str, object] = {"policy": "org/policy", "prm": "org/prm"}
SCRIPTED: dict[str, object] = {"policy": "scripted"}


def test_the_right_chain_is_the_examples_own_and_the_wrong_one_is_not() -> None:
    sample = example()
    problem = next(problem for problem in heldout() if problem.id == sample.problem_id)
    derived = derive(Problem(problem.rows, "difference", (0, 1)))
    pieces = [step_piece(step) for step in derived.steps]
    assert [(step.text, step.fields) for step in sample.right.steps] == [(piece.text, piece.fields) for piece in pieces]
    assert sample.right.answer == derived.answer == sample.answer != sample.wrong.answer
    assert not {step.text for step in sample.wrong.steps} & {step.text for step in sample.right.steps}


async def test_a_pair_that_solves_the_example_is_let_in() -> None:
    assert "32" in await checked(Script(writer=answering("32")), Script(judge=decided), **EMBEDDED)


@pytest.mark.parametrize("models", [EMBEDDED, FOREIGN, SCRIPTED])
async def test_a_prm_whose_scores_are_missing_is_refused(models: dict[str, object]) -> None:
    with pytest.raises(Unusable, match="10 of 10 scores of a known chain are missing") as refused:
        await checked(Script(), Script(judge=lambda _, __: math.nan), **models)
    assert refused.value.param == "prm"
    fails = Script(fault=lambda kind, _: EngineError("no") if kind == "read" else None)
    with pytest.raises(Unusable, match="are missing"):
        await checked(Script(), fails, **models)


def indifferent(prompt: Prompt, written: str) -> float:
    return random.Random(written).uniform(0.35, 0.48)


async def test_an_embedded_prm_that_says_nothing_is_refused() -> None:
    with pytest.raises(Unusable, match="it was not trained to judge"):
        await checked(Script(), Script(judge=indifferent), **EMBEDDED)


async def test_another_prm_that_says_nothing_of_a_sum_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    # It may have been trained for another domain or another language.
    await checked(Script(), Script(judge=indifferent), **FOREIGN)
    assert any(
        "it was not trained to judge, or not this kind of question" in record.message for record in caplog.records
    )


async def test_another_prm_is_asked_for_a_sum_without_a_picture() -> None:
    asked: set[tuple[str, int]] = set()

    def judge(prompt: Prompt, written: str) -> float:
        asked.add((prompt.asked, len(prompt.pictures)))
        return 0.9

    settings = {**FOREIGN, "strategy": "greedy", "prm_format": "math_shepherd"}
    await checked(Script(), Script(judge=judge), **settings)
    assert any(ARITHMETIC.question in question and not pictures for question, pictures in asked)


def upside_down(prompt: Prompt, written: str) -> float:
    return 1 - decided(prompt, written)


def believing_any_answer(prompt: Prompt, written: str) -> float:
    return 0.9 if ANSWER_END in written else decided(prompt, written)


@pytest.mark.parametrize("judge", [upside_down, believing_any_answer])
async def test_the_embedded_prm_must_put_a_right_chain_above_a_wrong_one(judge: Judge) -> None:
    with pytest.raises(Unusable, match="its checkpoint is damaged"):
        await checked(Script(), Script(judge=judge), **EMBEDDED)


async def test_another_prm_that_misjudges_the_example_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    await checked(Script(), Script(judge=upside_down), **FOREIGN)
    assert any("gives a wrong answer" in record.message for record in caplog.records)


async def test_an_embedded_pair_that_gets_its_own_example_wrong_is_refused() -> None:
    with pytest.raises(Unusable, match="answers its own example with '12' where '32' is right"):
        await checked(Script(writer=answering("12")), Script(judge=decided), **EMBEDDED)


async def test_a_narrow_strategy_that_gets_the_example_wrong_does_not_condemn_the_pair(
    caplog: pytest.LogCaptureFixture,
) -> None:
    drawn = 0

    def write(prompt: Prompt, written: str, rng: random.Random) -> str:
        nonlocal drawn
        drawn += 1
        return answering("12" if drawn == 1 else "32")(prompt, written, rng)

    await checked(Script(writer=write), Script(judge=decided), strategy="greedy", **EMBEDDED)
    assert any("auto gets it right" in record.message for record in caplog.records)


@pytest.mark.parametrize("models", [EMBEDDED, FOREIGN, SCRIPTED])
@pytest.mark.parametrize("has_prm", [True, False])
async def test_a_policy_that_fails_every_draw_is_refused(models: dict[str, object], has_prm: bool) -> None:
    fails = Script(fault=lambda kind, _: EngineError("no") if kind == "draw" else None)
    chosen = models if has_prm else {**models, "prm": "none"}
    with pytest.raises(Unusable, match="every candidate of a level failed") as refused:
        await checked(fails, Script(judge=decided) if has_prm else None, **chosen)
    assert refused.value.param == "policy"


async def test_an_engine_that_dies_meanwhile_is_told_as_such() -> None:
    dies = Script(fault=lambda _, __: EngineDead("gone"))
    with pytest.raises(EngineDead):
        await checked(Script(), dies, **SCRIPTED)


async def test_a_policy_that_answers_nothing_is_only_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    def chat(prompt: Prompt, written: str, rng: random.Random) -> str:
        return "As a language model, I have no steps to offer."

    await checked(Script(writer=chat), Script(judge=decided), **FOREIGN)
    assert any("without an answer" in record.message for record in caplog.records)


class ReadsText(ScriptedEngine):
    """A runtime whose model reads text alone."""

    most_pictures = 0


async def test_a_policy_that_reads_text_alone_is_asked_the_example_without_its_picture() -> None:
    shown: list[Prompt] = []

    def write(prompt: Prompt, written: str, rng: random.Random) -> str:
        shown.append(prompt)
        return answering("62")(prompt, written, rng)

    engines = Engines(ReadsText(Script(writer=write)), ScriptedEngine(Script(judge=decided)))

    async def start(_: Settings) -> Engines:
        return engines

    app = create_app(Settings.model_validate(FOREIGN), start=start)
    async with app.router.lifespan_context(app):
        await self_check(app.state.service, Console(file=io.StringIO(), width=200))
    assert shown
    assert not any(prompt.pictures for prompt in shown)
