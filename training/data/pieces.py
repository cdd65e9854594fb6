"""Rows' steps and the pieces of a search, each made of the other. It is a part of the trainer that knows CoS.

Rows hold the steps that the CoS format has: a name, a thought, a reflection. A step of a grammar without these parts is
all thought, and becomes the same text again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from cos.search.grammars.cos import Step, step_of, step_piece
from cos.search.types import Piece

Steps = tuple[Step, ...]
"""The steps of a row."""


def steps_of(pieces: Sequence[Piece]) -> Steps:
    """The steps of a chain, as rows hold them."""
    return tuple(map(step_of, pieces))


def steps_and_answer(pieces: Sequence[Piece]) -> tuple[Steps, str]:
    """A whole chain, its answer last, as rows hold it. What the answer's piece says beside the answer (reasoning before
    it, in some grammars) becomes a step of its own."""
    *steps, answer = pieces
    reasoning = " ".join(answer.fields.values())
    return steps_of([*steps, *([Piece("step", reasoning)] if reasoning else [])]), answer.text


def pieces_of(steps: Sequence[Step]) -> tuple[Piece, ...]:
    """The steps of a row, as a search has them."""
    return tuple(step_piece(step) if step.name or step.reflection else Piece("step", step.thought) for step in steps)


def chain_pieces(steps: Sequence[Step], answer: str) -> tuple[Piece, ...]:
    """A row's whole chain, its answer last."""
    return (*pieces_of(steps), Piece("answer", answer))


def steps_as_json(steps: Sequence[Step]) -> list[dict[str, str]]:
    """A row's steps as a journal holds them."""
    return [asdict(step) for step in steps]


def steps_from_json(stored: Iterable[Mapping[str, str]]) -> Steps:
    """The steps that stand in a journal."""
    return tuple(Step(**step) for step in stored)
