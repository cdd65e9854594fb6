r"""The paragraph grammar: a blank line ends a step, and "Final answer:" or \boxed{} a chain."""

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.prm.matching import match
from cos.search.grammar import written
from cos.search.grammars import choose
from cos.search.grammars.paragraph import BLANK_LINE, ParagraphGrammar
from cos.search.ports import Drawn
from cos.search.prompt import Prompt
from cos.search.result import Result
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.strategies import resolve
from cos.search.types import UNREADABLE, Piece, Question

GRAMMAR = ParagraphGrammar(ScriptedVocabulary(()))


def drawn(text: str, stop: str | None = None, *, is_cut: bool = False) -> Drawn:
    """What a policy wrote: up to a blank line where it holds one, else to the end of its turn."""
    return Drawn(
        written=text,
        text=text,
        tokens=len(text),
        finish="length" if is_cut else "stop",
        stop=stop if stop is not None or is_cut or BLANK_LINE not in text else BLANK_LINE,
        logprob=None,
        prompt_tokens=1,
        cached_tokens=0,
    )


def answer(text: str) -> str | None:
    """What a paragraph is read as an answer; None for any other piece."""
    piece = GRAMMAR.read(drawn(text))
    return piece.text if piece.kind == "answer" else None


def test_any_policy_can_write_so_and_is_told_how() -> None:
    grammar = choose("paragraph", ScriptedVocabulary(()))
    assert grammar.stops.strings == ("\n\n", "\r\n\r\n")
    assert grammar.stops.token_ids == ()
    assert "blank line" in grammar.instruction
    assert "Final answer:" in grammar.instruction


def test_a_blank_line_ends_a_step() -> None:
    assert GRAMMAR.read(drawn("2019 shows 40.\n\n")) == Piece("step", "2019 shows 40.")


def test_the_instruction_itself_is_no_answer() -> None:
    assert GRAMMAR.read(drawn(r"I shall put the answer into \boxed{}." + BLANK_LINE)).kind == "step"


async def test_paragraphs_with_the_line_breaks_of_windows_are_steps() -> None:
    def write(prompt: Prompt, before: str, rng: random.Random) -> str:
        del prompt
        return ["One.\r\n\r\n", "Two\r\nlines.\r\n\r\n", "So.\r\nFinal answer: 3\r\n"][before.count("\r\n\r\n")]

    result = await search("greedy", Script(writer=write))
    assert [(candidate.end, candidate.piece.text) for candidate in result.tree] == [
        ("step", "One."),
        ("step", "Two\nlines."),
        ("answer", "3"),
    ]


@pytest.mark.parametrize("text", ["\n\n", "\n\n\n", " \n\n"])
def test_a_blank_line_alone_is_a_step_that_says_nothing(text: str) -> None:
    assert GRAMMAR.read(drawn(text, BLANK_LINE)) == Piece("step", "")


@pytest.mark.parametrize("text", ["\nOne.\n\n", "  One.\n\n", "One.\n\n\n", "One.  \n\n\n\n"])
def test_white_space_around_a_paragraph_says_nothing(text: str) -> None:
    assert GRAMMAR.read(drawn(text)) == Piece("step", "One.")


def test_what_the_last_token_says_behind_the_blank_line_is_kept() -> None:
    assert GRAMMAR.read(drawn("One.\n\n#", BLANK_LINE)) == Piece("step", "One.\n#")


@pytest.mark.parametrize("text", ["2019 shows", "Final answer: 4", "One.\n\n"])
def test_a_piece_that_a_token_limit_ended_is_truncated_whatever_it_says(text: str) -> None:
    assert GRAMMAR.read(drawn(text, is_cut=True)) == Piece("truncated", text)


@pytest.mark.parametrize("text", ["So it is 45.", "", "Final answer:", "Final answer:\n\n", r"It is \boxed{4"])
def test_a_turn_that_ends_without_an_answer_and_an_answer_that_says_nothing_are_broken_and_whole(text: str) -> None:
    assert GRAMMAR.read(drawn(text)) == Piece("broken", text)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Final answer: 45", "45"),
        ("Final answer: 45\n\n", "45"),
        ("Final Answer: 45", "45"),
        ("FINAL ANSWER:45", "45"),
        ("**Final answer:** 45", "45"),
        ("**Final answer**: 45", "45"),
        ("**Final answer: 45**", "45"),
        ("Final answer: **45**", "45"),
        ("### Final answer: 45", "45"),
        ("Final answer:\n45", "45"),
        ("Final answer:\nx = 1\ny = 2", "x = 1\ny = 2"),
        ("Final answer: 45\nI added both.", "45"),
        ("Final answer: 4 or 5? Final answer: 45", "45"),
        (r"\boxed{45}", "45"),
        (r"\boxed {45}", "45"),
        (r"So $\boxed{45}$.", "45"),
        (r"First \boxed{4}, then \boxed{45}.", "45"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\text{between } 4 \text{ and } \{5\}}", r"\text{between } 4 \text{ and } \{5\}"),
        (r"\boxed{\}45}", r"\}45"),
        (r"\boxed{\boxed{45}}", "45"),
        (r"\boxed{}, that is \boxed{45}", "45"),
        (r"It was {open: \boxed{45}", "45"),
        (r"Final answer: \boxed{45}", "45"),
        (r"\boxed{4} is wrong. Final answer: 45", "45"),
        (r"Final answer: the sum, \boxed{45}.", "45"),
        (r"Final answer: \boxed{4", None),
        ("the final answer: we add", None),
        ("Answer: 45", None),
    ],
)
def test_an_answer_is_found_where_models_put_it(text: str, read: str | None) -> None:
    assert answer(text) == read


@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        ("40 + 5 = 45. Final answer: 45", "40 + 5 = 45."),
        ("40 + 5 = 45.\n**Final answer:** 45", "40 + 5 = 45."),
        (r"So it is $\boxed{45}$.", r"So it is $\boxed{45}$."),
        ("Final answer: 45", None),
        (r"$\boxed{45}$", None),
    ],
)
def test_reasoning_before_the_answer_is_a_part_of_its_piece(text: str, reasoning: str | None) -> None:
    piece = GRAMMAR.read(drawn(text))
    assert piece.text == "45"
    assert piece.fields.get("reasoning") == reasoning


def test_ten_thousand_boxes_that_are_not_closed_are_read_at_once() -> None:
    assert GRAMMAR.read(drawn(r"\boxed{" * 10_000)).kind == "broken"


PARAGRAPHS = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(["One", "\n", " ", "{", "}", "\\", "*", ":", "45", "answer"]), max_size=8).map("".join),
)


@given(PARAGRAPHS)
def test_a_step_that_is_written_and_read_is_the_step(text: str) -> None:
    step = GRAMMAR.read(drawn(text + BLANK_LINE, BLANK_LINE))
    assume(step.kind == "step")
    assert GRAMMAR.read(drawn(written(GRAMMAR.spans(step, first=False)), BLANK_LINE)) == step


@given(PARAGRAPHS, PARAGRAPHS, st.sampled_from(["Final answer: {}", "**Final answer: {}**", "\\boxed{{{}}}"]))
def test_an_answer_that_is_written_and_read_is_the_answer(before: str, text: str, marked: str) -> None:
    found = GRAMMAR.read(drawn(f"{before} {marked.format(text)}", None))
    assume(found.kind == "answer")
    assert GRAMMAR.read(drawn(written(GRAMMAR.spans(found, first=False)), None)) == found


@given(st.text(max_size=60), st.sampled_from([None, BLANK_LINE]), st.booleans())
def test_whatever_is_written_can_be_read_and_nothing_is_lost_in_silence(
    text: str, stop: str | None, is_cut: bool
) -> None:
    piece = GRAMMAR.read(drawn(text, stop, is_cut=is_cut))
    if piece.kind in {"truncated", "broken"}:
        assert piece.text == text
    if piece.kind == "step":
        assert piece.text.split() == text.split()


SEARCHES = ["beam", "best_of_n", "self_consistency", "auto", "greedy"]


def blunt(prompt: Prompt, written: str, rng: random.Random) -> str:
    """As chat models write: bold marks, reasoning before the answer, now and then a blank line too many."""
    del prompt
    if written.count(BLANK_LINE) >= 2:
        return rng.choice(
            ["Then 4 + 5 = 9.\n**Final answer:** 9", r"So it is \boxed{9}.", "Final answer: 10", "So it is."]
        )
    return rng.choice([f"First I count {rng.randint(1, 9)}.{BLANK_LINE}", f"I read it.{BLANK_LINE}", BLANK_LINE])


async def search(strategy: str, script: Script) -> Result:
    """A search with a policy that knows no control token, over four candidates where the strategy takes a number."""
    policy = ScriptedEngine(script, vocabulary=ScriptedVocabulary(()))
    models = match(policy, ScriptedEngine(), grammar="paragraph")
    params = {"n": 4} if "n" in resolve(strategy).params.model_fields else {}
    return await solve(Question("How much is it?"), SearchSpec(strategy, params), models)


@pytest.mark.parametrize("strategy", SEARCHES)
async def test_a_search_over_paragraphs_comes_to_the_answer_of_the_story(strategy: str) -> None:
    result = await search(strategy, Script(grammar=GRAMMAR))
    assert result.is_complete
    assert str(result.chain.answer).isdigit()
    assert {candidate.end for candidate in result.tree} == {"step", "answer"}
    assert len(result.chain.steps) == 3
    assert all(candidate.piece.text.startswith("Look at part") for candidate in result.chain.steps)


@pytest.mark.parametrize("strategy", SEARCHES)
async def test_what_a_chat_model_writes_is_searched_and_nothing_unreadable_is_scored(strategy: str) -> None:
    result = await search(strategy, Script(writer=blunt))
    for candidate in result.tree:
        assert candidate.end in {"step", "answer", "broken", "empty", "repeated"}
        assert (candidate.end == "empty") == (candidate.piece == Piece("step", ""))
        assert candidate.end not in UNREADABLE or candidate.score is None
    answers = {candidate.answer for candidate in result.tree if candidate.end == "answer"}
    assert answers <= {"9", "10"}


async def test_the_policy_is_told_in_a_system_message_how_to_write() -> None:
    seen: list[Prompt] = []

    def write(prompt: Prompt, before: str, rng: random.Random) -> str:
        seen.append(prompt)
        return blunt(prompt, before, rng)

    await search("greedy", Script(writer=write))
    assert [(turn.role, turn.text) for turn in seen[0].turns] == [
        ("system", GRAMMAR.instruction),
        ("user", "How much is it?"),
    ]
