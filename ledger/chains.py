"""A ledger's chains as text and as judged turns."""

import random

from cos.ledger.rows import ledger_problem
from cos.ledger.task import Derivation, Problem, clumsy, derive, is_reading
from cos.search.grammars.cos import STEP_TAG, render_segments
from cos.training.data.rows import ChainRow
from cos.training.learning.encode import IGNORED, Turn, TurnEncoder


def segments_of(derivation: Derivation) -> list[str]:
    """The segments of a written-out chain: its steps, then its answer."""
    return render_segments(derivation.steps, derivation.answer)


def chain_text(derivation: Derivation, *, tagged: bool) -> str:
    """The chain as the policy writes it, or ``tagged`` as the PRM reads it."""
    return "".join(segment + (STEP_TAG if tagged else "") for segment in segments_of(derivation))


def prompt_text(question: str, image_tokens: int) -> str:
    """The expanded chat prompt up to where the policy begins."""
    image = "<img>" + "<IMG_CONTEXT>" * image_tokens + "</img>\n"
    return f"<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n"


def judged_turn(encoder: TurnEncoder, chain: Derivation, gold: Derivation) -> Turn:
    """A chain over a ledger as a small PRM learns from it, labelled by the exact checker at every token.

    A step is good as long as it and all before it equal the gold derivation's (what a Monte-Carlo label tends to: from
    a false step on, few continuations end right); the answer is good when it is right. Beside the tags every token
    carries a verdict: good up to the first one of the chain that departs from gold. ``should`` says what should stand
    at a place: known in every reading of a row and in the answer, which depend on picture and question alone, up to and
    with the first departure of the chain, and where later segments still begin as gold does.
    """
    tag = encoder.tag
    golden = encoder.segments(gold.steps, gold.answer)
    ids: list[int] = []
    expected: list[int] = []
    verdict: list[float] = []
    departed = False
    segments = encoder.segments(chain.steps, chain.answer)
    for index, tokens in enumerate(segments):
        last = index == len(segments) - 1
        target = golden[-1] if last else (golden[index] if index < len(golden) - 1 else [])
        good = 0
        while good < min(len(tokens), len(target)) and tokens[good] == target[good]:
            good += 1
        same = good == len(tokens) == len(target)
        reading = index < len(gold.steps) and is_reading(gold.steps[index])
        if (reading or last) and len(tokens) == len(target):
            known = target
        else:
            # A later segment departs because it carries a mistake on: what should stand there is another question.
            known = target[: good if departed else good + 1][: len(tokens)]
        ids += [*tokens, tag]
        expected += [*known, *[IGNORED] * (len(tokens) - len(known)), IGNORED]
        so_far = 0.0 if departed else 1.0
        departed = departed or not same
        step_is_good = chain.answer == gold.answer if last else not departed
        verdict += [so_far] * good + [0.0] * (len(tokens) - good) + [1.0 if step_is_good else 0.0]
    return Turn(ids, expected, verdict, [token == tag for token in ids])


def checked_turn(encoder: TurnEncoder, chain: ChainRow) -> Turn:
    """The chain of a row as the clumsy writers' are judged: exactly, at every token. Errors: InputError (no ledger)."""
    return judged_turn(encoder, Derivation(chain.steps, chain.answer), derive(ledger_problem(chain.problem)))


def clumsy_turn(encoder: TurnEncoder, problem: Problem, rng: random.Random) -> Turn:
    """A chain by somebody who makes no mistakes, misreads, miscalculates, or both; labelled by the exact checker."""
    kind = rng.choices(("careful", "misreads", "miscounts", "both"), (0.2, 0.3, 0.4, 0.1))[0]
    misreads = rng.uniform(0.02, 0.5) if kind == "misreads" else 0.1
    miscounts = rng.uniform(0.03, 0.25) if kind == "miscounts" else 0.05
    slip = clumsy(
        rng,
        misreads if kind in ("misreads", "both") else 0.0,
        miscounts if kind in ("miscounts", "both") else 0.0,
    )
    return judged_turn(encoder, derive(problem, slip), derive(problem))
