"""What a scripted policy writes and how a scripted PRM judges it, unless a test has its own: one story, in any grammar.

Three steps each say how sure they are, then comes the right answer if all went well.
"""

import hashlib
import random
import re
from collections.abc import Callable
from functools import cache

from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.search import grammars
from cos.search.errors import InputError
from cos.search.grammar import Grammar, written
from cos.search.grammars.cos import Step, step_piece
from cos.search.prompt import Prompt
from cos.search.types import Piece

Writer = Callable[[Prompt, str, random.Random], str]
"""``writer(prompt, written, rng)``: the next piece after what is written, markup included."""

Judge = Callable[[Prompt, str], float]
"""``judge(prompt, written)``: P(good) at the end of what is written; NaN is allowed."""

CHAIN_STEPS = 3
_SURENESS = re.compile(r"\[(\d\.\d+)\]")
_MARK = "\u2400"
"""Stands for what a piece says, to see what its grammar puts around it."""


class Story:
    """The story as one grammar has it."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        try:
            grammar.spans(Piece("step", _MARK), first=True)
        except Exception as error:  # It may be anybody's grammar, and raise anything.
            raise InputError(
                f"the grammar {grammar.name!r} cannot write a step that has a text and no fields, such as the scripted "
                f"models' ({type(error).__name__}: {error}); let its `spans` use `piece.text` where a field is missing",
                "grammar",
            ) from error
        self.step_end = _ending(grammar, Piece("step", _MARK))
        """How a step ends. What ends otherwise ends the policy's turn; empty where the grammar does not mark it."""
        self._answer_mark = _ending(grammar, Piece("answer", _MARK)) or _beginning(grammar, Piece("answer", _MARK))

    def write(self, prompt: Prompt, before: str, rng: random.Random) -> str:
        """A `Writer`."""
        said = [float(found) for found in _SURENESS.findall(before)]
        done = before.count(self.step_end) if self.step_end else len(said)
        if done >= CHAIN_STEPS:
            right = int(hashlib.sha256(prompt.asked.encode()).hexdigest(), 16) % 90 + 10
            answer = str(right if min(said, default=1.0) >= 0.5 else rng.randint(10, 99))
            return written(self._grammar.spans(Piece("answer", answer), first=False))
        sure = round(rng.betavariate(2, 1.2), 4)
        look = f"I look at part {done + 1} and feel [{sure:.4f}] sure."
        step = Step(f"Look at part {done + 1}", look, "It fits what I saw before.")
        return written(self._grammar.spans(step_piece(step), first=done == 0))

    def judge(self, prompt: Prompt, before: str) -> float:
        """A `Judge`: how sure the newest step says it is; an answer is as good as the least sure step."""
        del prompt
        said = [float(found) for found in _SURENESS.findall(before)] or [0.5]
        return min(said) if self._answer_mark and self._answer_mark in before else said[-1]


@cache
def default_story() -> Story:
    """The story in the default grammar."""
    return Story(grammars.choose(grammars.AUTO, ScriptedVocabulary()))


def story(prompt: Prompt, before: str, rng: random.Random) -> str:
    """The default writer."""
    return default_story().write(prompt, before, rng)


def sureness(prompt: Prompt, before: str) -> float:
    """The default judge."""
    return default_story().judge(prompt, before)


def _ending(grammar: Grammar, piece: Piece) -> str:
    """What a grammar writes last behind what a piece says."""
    return grammar.spans(piece, first=False)[-1].text.rpartition(_MARK)[2]


def _beginning(grammar: Grammar, piece: Piece) -> str:
    """What a grammar writes before what a piece says."""
    return written(grammar.spans(piece, first=False)).partition(_MARK)[0]
