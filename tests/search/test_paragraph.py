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


def test_a_paragraph_that_a_token_limit_cut_is_a_step_and_the_next_goes_on() -> None:
    assert GRAMMAR.read(drawn("2019 shows", is_cut=True)) == Piece("step", "2019 shows")


@pytest.mark.parametrize("text", ["Final answer: 4", r"So \boxed{4", r"So \boxed{4}", "Final answer:"])
def test_an_answer_that_a_token_limit_cut_is_truncated(text: str) -> None:
    assert GRAMMAR.read(drawn(text, is_cut=True)) == Piece("truncated", text)


@pytest.mark.parametrize("text", ["", "\n", "Final answer:", "Final answer:\n\n", r"It is \boxed{4"])
def test_a_turn_without_a_word_and_an_answer_that_says_nothing_are_broken_and_whole(text: str) -> None:
    assert GRAMMAR.read(drawn(text)) == Piece("broken", text)


@pytest.mark.parametrize(
    ("text", "read", "reasoning"),
    [
        ("Answer: 45", "45", ""),
        ("**Answer:** 45", "45", ""),
        ("We add.\nSo the answer is 45.", "45", "We add.\nSo the answer is 45."),
        ("The answer is (B) the tower.", "B", "The answer is (B) the tower."),
        ("The correct option is B.", "B", "The correct option is B."),
        ("It must be the tower.\nB", "B", "It must be the tower."),
        ("45", "45", ""),
        ("So it is 45.", "So it is 45.", ""),
        (
            "First the answer is 4, but then the answer is: 45",
            "45",
            "First the answer is 4, but then the answer is: 45",
        ),
        ("What is the answer:", "What is the answer:", ""),
    ],
)
def test_a_turn_that_marks_no_answer_has_it_in_its_last_line(text: str, read: str, reasoning: str) -> None:
    piece = GRAMMAR.read(drawn(text, None))
    assert piece.kind == "answer"
    assert (piece.text, piece.fields.get("reasoning", "")) == (read, reasoning)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("<think>\nFirst I look.\n\n", "First I look."),
        ("So it is 9.\n</think>\n\n", "So it is 9."),
        ("</think>\n\n", "</think>"),
    ],
)
def test_the_tags_of_a_think_block_are_no_words_of_its_steps(text: str, read: str) -> None:
    assert GRAMMAR.read(drawn(text)) == Piece("step", read)


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
        ("*Final answer:* 45", "45"),
        ("_Final answer:_ 45", "45"),
        ("__Final answer__: 45", "45"),
        ("***Final answer:*** 45", "45"),
        ("*Final answer: 45*", "45"),
        ("_Final answer: x_1_", "x_1"),
        ("*Final answer: 3*4 cm", "3*4 cm"),
        ("Final answer：45", "45"),
        (r"Final answer: \boxed{}", None),
        (r"Final answer: $\boxed{ }$.", None),
        (r"\boxed{}", None),
        (r"The answer is **\boxed{}**.", None),
        (r"Final answer: 45, not \boxed{}", r"45, not \boxed{}"),
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
        ("the final answer: we add\n\n", None),
        ("Answer: 45\n\n", None),
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


async def test_rules_and_brackets_around_formulas_do_not_end_a_chain_as_repetitions() -> None:
    paragraphs = ["First:", r"\[", "x = 1", r"\]", "---", "Then:", r"\[", "y = 2", r"\]", "---", "Final answer: 3"]

    def write(prompt: Prompt, before: str, rng: random.Random) -> str:
        del prompt
        said = paragraphs[before.count(BLANK_LINE)]
        return said if said.startswith("Final") else said + BLANK_LINE

    result = await search("greedy", Script(writer=write))
    assert [candidate.piece.text for candidate in result.chain.candidates] == [*paragraphs[:-1], "3"]
    assert result.is_complete


@pytest.mark.parametrize(
    ("parts", "answer"),
    [
        (["**Final Answer:**\n\n", "$$\\boxed{42}$$"], "42"),
        (["Final answer:\n\n", "42\n\n"], "42"),
        (["So.\n### Final answer: \n\n", "\n\n", "42"], "42"),
    ],
)
async def test_the_paragraph_behind_a_final_answer_alone_is_the_answer(parts: list[str], answer: str) -> None:
    def write(prompt: Prompt, before: str, rng: random.Random) -> str:
        del prompt
        for part in parts:
            if not before.startswith(part):
                return part
            before = before.removeprefix(part)
        return "And more."

    result = await search("greedy", Script(writer=write))
    (candidate,) = result.chain.candidates
    assert (candidate.end, candidate.piece.text) == ("answer", answer)
    assert candidate.tokens == result.usage.tokens_generated == result.usage.tokens_kept
    assert result.is_complete


async def test_a_final_answer_that_never_comes_is_broken_at_the_limit() -> None:
    result = await search("greedy", Script(writer=lambda prompt, before, rng: "" if before else "Final answer:\n\n"))
    assert [candidate.end for candidate in result.chain.candidates] == ["broken"]


async def test_a_sign_directly_behind_itself_is_a_repetition() -> None:
    result = await search("greedy", Script(writer=lambda prompt, before, rng: "---" + BLANK_LINE))
    assert [candidate.end for candidate in result.chain.candidates] == ["step", "repeated"]


SEARCHES = ["beam", "best_of_n", "self_consistency", "auto", "greedy"]


def blunt(prompt: Prompt, written: str, rng: random.Random) -> str:
    """As chat models write: bold marks, reasoning before the answer, now and then a blank line too many."""
    del prompt
    if written.count(BLANK_LINE) >= 2:
        return rng.choice(
            ["Then 4 + 5 = 9.\n**Final answer:** 9", r"So it is \boxed{9}.", "Final answer: 10", "Final answer:"]
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
