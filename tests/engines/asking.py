"""What the contract's tests ask of engines."""

import io
from functools import cache

from PIL import Image

from cos.checkpoints import LedgerProblem, heldout
from cos.engines.launch import Engines
from cos.engines.ports import Runtime, Session
from cos.search.grammars.cos import LABEL_BAD, LABEL_GOOD, STEP_TAG, CosGrammar
from cos.search.ports import Draw, Drawn, Stops
from cos.search.prompt import Prompt, question_prompt
from cos.search.types import Picture, Question


@cache
def problems() -> list[LedgerProblem]:
    return heldout()


def question(text: str | None = None, *, ledger: int = 0) -> Question:
    """A held-out ledger, and the question that belongs to it or another."""
    return Question(text or problems()[ledger].question, (picture(ledger),))


def picture(ledger: int = 0) -> Picture:
    problem = problems()[ledger]
    return Picture(Image.open(io.BytesIO(problem.image_png)).convert("RGB"), problem.id)


def asked(text: str | None = None, *, ledger: int = 0) -> Prompt:
    """That question as a prompt."""
    return question_prompt(question(text, ledger=ledger))


def a_draw(
    engine: Runtime,
    *,
    seed: int = 1,
    max_tokens: int = 200,
    temperature: float = 1.0,
    stops: Stops | None = None,
    logprobs: bool = False,
) -> Draw:
    """Up to the end of a step, unless other ``stops`` are given."""
    return Draw(
        max_tokens=max_tokens,
        stops=CosGrammar(engine.vocabulary).stops if stops is None else stops,
        seed=seed,
        temperature=temperature,
        logprobs=logprobs,
    )


def ids_of(drawn: Drawn) -> tuple[int, ...]:
    """What was written: in process, token ids."""
    assert isinstance(drawn.written, tuple)
    return drawn.written


def labels(engine: Runtime) -> tuple[int, int]:
    good, bad = (engine.vocabulary.control_id(label) for label in (LABEL_GOOD, LABEL_BAD))
    assert good is not None
    assert bad is not None
    return good, bad


def tagged(engine: Runtime, ids: tuple[int, ...]) -> tuple[int, ...]:
    tag = engine.vocabulary.control_id(STEP_TAG)
    assert tag is not None
    return (*ids, tag)


def prm_of(engines: Engines) -> Runtime:
    assert engines.prm is not None
    return engines.prm


async def first_step(engine: Runtime, session: Session) -> Drawn:
    """A whole first step; at temperature 0, so that even a small policy writes one."""
    drawn = await session.draw((), a_draw(engine, temperature=0.0))
    assert drawn.finish == "stop"
    return drawn
