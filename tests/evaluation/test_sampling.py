"""Whole chains drawn in one request: the same as ever for CoS, and cut by the stops of any grammar."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.evaluation.cutting import closing_stops, cut
from cos.evaluation.sampling import ChainSampler, ChainSampling, Continuation
from cos.prm.matching import match
from cos.search.grammar import Grammar, Span, written
from cos.search.grammars.cos import ANSWER_END, CosGrammar, Step, step_of, step_piece
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.models import Models
from cos.search.ports import Draw, Drawn, Stops, Vocabulary
from cos.search.prompt import Prompt
from cos.search.types import Piece, Question

STORED = Path(__file__).with_name("whole_chains.json")
QUESTIONS = ("What is the total?", "Ки? <|answer_end|>")
GIVEN = Step("Look at part 1", "I look at part 1 and feel [0.9000] sure.", "It fits.")


class Tagged(Grammar):
    """Steps and answers in tags that are plain text."""

    name = "tagged"

    def __init__(self, vocabulary: Vocabulary) -> None:
        del vocabulary

    @property
    def stops(self) -> Stops:
        return Stops(strings=("</step>", "</answer>"))

    def read(self, drawn: Drawn) -> Piece:
        if drawn.finish == "length":
            return Piece("truncated", drawn.text)
        said = drawn.text.partition(">")[2].partition("</")[0]
        kinds = {"</step>": Piece("step", said), "</answer>": Piece("answer", said)}
        return kinds.get(str(drawn.stop), Piece("broken", drawn.text))

    def spans(self, piece: Piece, *, first: bool) -> list[Span]:
        del first
        return [Span(f"<{piece.kind}>{piece.text}</{piece.kind}>")]


def sampler(grammar: Grammar, text: str, sampling: ChainSampling | None = None) -> ChainSampler:
    """A policy that writes one text and ends its turn."""
    engine = ScriptedEngine(Script(grammar=grammar, writer=lambda prompt, before, rng: text.removeprefix(before)))
    return ChainSampler(Models(policy=engine, grammar=grammar), sampling or ChainSampling(), 4)


async def one(draws: ChainSampler, *steps: Piece) -> Continuation:
    """A chain from these steps on."""
    (found,) = await draws.write(await draws.open(Question("?")), "p", 1, steps)
    return found


async def test_whole_chains_of_the_cos_grammar_are_those_of_the_commit_that_first_stored_them() -> None:
    draws = ChainSampler(match(ScriptedEngine(), None), ChainSampling(seed=3, max_tokens=900), 4, logprobs=True)
    found: list[object] = []
    for question in QUESTIONS:
        session = await draws.open(Question(question))
        for steps in ((), (step_piece(GIVEN),)):
            for chain in await draws.write(session, question, 5, steps):
                fields = [[step.name, step.thought, step.reflection] for step in map(step_of, chain.steps)]
                answer = None if chain.answer is None else chain.answer.text
                found.append([fields, answer, chain.tokens, round(chain.logprob or 0.0, 6)])
    assert found == json.loads(STORED.read_text(encoding="utf-8"))


CHAINS: dict[str, tuple[type[Grammar], str]] = {
    "a blank line ends a step, the turn an answer": (ParagraphGrammar, "I see 4.\n\n4 + 1 = 5.\n\nFinal answer: 5"),
    "text behind the answer is not read": (ParagraphGrammar, "I see 4.\n\n4 + 1 = 5.\n\nFinal answer: 5\n\nOr not?"),
    "tags of plain text": (Tagged, "<step>I see 4.</step><step>4 + 1 = 5.</step><answer>5</answer>Or not?"),
}


@pytest.mark.parametrize("case", CHAINS)
async def test_a_reply_is_cut_where_the_stops_of_its_grammar_stand(case: str) -> None:
    kind, text = CHAINS[case]
    grammar = kind(ScriptedVocabulary())
    found = await one(sampler(grammar, text))
    assert [step.text for step in found.steps] == ["I see 4.", "4 + 1 = 5."]
    assert found.answer == Piece("answer", "5")


@pytest.mark.parametrize("case", CHAINS)
async def test_a_chain_goes_on_behind_steps_that_are_given(case: str) -> None:
    kind, text = CHAINS[case]
    grammar = kind(ScriptedVocabulary())
    found = await one(sampler(grammar, text), Piece("step", "I see 4."))
    assert ([step.text for step in found.steps], found.answer) == (["4 + 1 = 5."], Piece("answer", "5"))


@pytest.mark.parametrize("end", ["Final answer:", ""])
async def test_a_reply_that_ends_without_an_answer_has_the_steps_that_can_be_read(end: str) -> None:
    found = await one(sampler(ParagraphGrammar(ScriptedVocabulary()), f"I see 4.\n\n4 + 1 = 5.\n\n{end}"))
    assert ([step.text for step in found.steps], found.answer) == (["I see 4.", "4 + 1 = 5."], None)


async def test_a_reply_that_marks_no_answer_has_it_in_its_last_line() -> None:
    found = await one(sampler(ParagraphGrammar(ScriptedVocabulary()), "I see 4.\n\n4 + 1 = 5.\n\nIt is 5."))
    assert ([step.text for step in found.steps], found.answer) == (
        ["I see 4.", "4 + 1 = 5."],
        Piece("answer", "It is 5."),
    )


async def test_a_reply_that_a_limit_cuts_has_the_steps_before_it_and_no_answer() -> None:
    text, sampling = "I see 4.\n\nFinal answer: 592", ChainSampling(max_tokens=26)
    found = await one(sampler(ParagraphGrammar(ScriptedVocabulary()), text, sampling))
    assert ([step.text for step in found.steps], found.answer, found.tokens) == (["I see 4."], None, 26)


async def test_a_question_is_asked_as_a_search_asks_it() -> None:
    asked: list[Prompt] = []

    def write(prompt: Prompt, before: str, rng: object) -> str:
        asked.append(prompt)
        return "Final answer: 5"

    grammar = ParagraphGrammar(ScriptedVocabulary())
    engine = ScriptedEngine(Script(grammar=grammar, writer=write))
    models = Models(policy=engine, grammar=grammar, question_suffix="Think.")
    await one(ChainSampler(models, ChainSampling(), 4))
    assert [(turn.role, turn.text) for turn in asked[0].turns] == [
        ("system", grammar.instruction),
        ("user", "?\nThink."),
    ]


STOPS: dict[str, tuple[Callable[[], Grammar], Stops]] = {
    "a token": (lambda: CosGrammar(ScriptedVocabulary()), Stops((ScriptedVocabulary().control_id(ANSWER_END) or -1,))),
    "a string": (lambda: Tagged(ScriptedVocabulary()), Stops(strings=("</answer>",))),
    "nothing": (lambda: ParagraphGrammar(ScriptedVocabulary()), Stops()),
}


@pytest.mark.parametrize("case", STOPS)
def test_a_whole_chain_stops_at_what_ends_an_answer_and_no_step(case: str) -> None:
    grammar, expected = STOPS[case]
    assert closing_stops(grammar(), ScriptedVocabulary()) == expected


@pytest.mark.parametrize("kind", [CosGrammar, ParagraphGrammar, Tagged])
async def test_the_pieces_of_a_reply_are_those_that_are_drawn_one_by_one(kind: type[Grammar]) -> None:
    vocabulary = ScriptedVocabulary()
    grammar = kind(vocabulary)
    pieces = [Piece("step", "Look: ä4."), Piece("step", "So it is 5."), Piece("answer", "5")]
    text = "".join(written(grammar.spans(piece, first=index == 0)) for index, piece in enumerate(pieces))
    engine = ScriptedEngine(Script(grammar=grammar, writer=lambda prompt, before, rng: text.removeprefix(before)))
    session = await engine.open(Prompt(()))
    draw = Draw(max_tokens=400, stops=closing_stops(grammar, vocabulary), seed=0)
    whole = [*cut(await session.draw((), draw), grammar.stops, vocabulary)]
    alone: list[Drawn] = []
    before: tuple[int, ...] = ()
    for _ in whole:
        alone.append(await session.draw(before, Draw(max_tokens=400, stops=grammar.stops, seed=0)))
        before += cast("tuple[int, ...]", alone[-1].written)
    assert [(piece.written, piece.text, piece.tokens, piece.finish, piece.stop) for piece in whole] == [
        (piece.written, piece.text, piece.tokens, piece.finish, piece.stop) for piece in alone
    ]
    assert [grammar.read(piece).kind for piece in whole] == ["step", "step", "answer"]
