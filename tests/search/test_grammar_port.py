"""Grammars of any origin: one whose pieces are none ends its searches with its name, and what is wrong."""

from typing import Any

import pytest

from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.search.errors import InputError
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.models import Models
from cos.search.ports import Drawn
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.types import Piece, Question


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        (None, "a NoneType in place of a Piece"),
        ("One.", "a str in place of a Piece"),
        (Piece("conclusion", "4"), "a piece of kind 'conclusion'; there are answer, broken, step, truncated"),  # pyright: ignore[reportArgumentType]
        (Piece("answer", None), "a piece of kind 'answer' of which not every part is text"),  # pyright: ignore[reportArgumentType]
        (Piece("step", "One.", {"number": 1}), "a piece of kind 'step' of which not every part is text"),  # pyright: ignore[reportArgumentType]
        (Piece("step", "One.", {1: "One."}), "a piece of kind 'step' of which not every part is text"),  # pyright: ignore[reportArgumentType]
        (Piece("step", "One.", None), "a piece of kind 'step' of which not every part is text"),  # pyright: ignore[reportArgumentType]
        (Piece("step", "One.", ["One."]), "a piece of kind 'step' of which not every part is text"),  # pyright: ignore[reportArgumentType]
    ],
)
async def test_a_grammar_whose_pieces_are_none_is_named(returned: Any, what: str) -> None:
    class Theirs(ParagraphGrammar):
        name = "theirs"

        def read(self, drawn: Drawn) -> Piece:
            del drawn
            return returned

    policy = ScriptedEngine(Script(grammar=ParagraphGrammar(ScriptedVocabulary())))
    models = Models(policy=policy, grammar=Theirs(policy.vocabulary))
    with pytest.raises(InputError, match=f"grammar 'theirs' returned {what}"):
        await solve(Question("How much is it?"), SearchSpec("beam", {"n": 2}, score="likelihood"), models)
