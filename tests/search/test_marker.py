r"""The marker grammar: a step begins with a mark of its own, and the next mark ends it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.prm.matching import match
from cos.search.grammars import choose
from cos.search.grammars.marker import MarkerGrammar
from cos.search.ports import Drawn
from cos.search.prompt import Prompt
from cos.search.result import Result
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.strategies import resolve
from cos.search.types import Piece, Question

GRAMMAR = MarkerGrammar(ScriptedVocabulary(()))


def drawn(text: str, stop: str | None = None, *, is_cut: bool = False) -> Drawn:
    """What a policy wrote, ended by a mark unless ``stop`` is None."""
    return Drawn(
        written=text,
        text=text,
        tokens=len(text),
        finish="length" if is_cut else "stop",
        stop=stop,
        logprob=None,
        prompt_tokens=1,
        cached_tokens=0,
    )


def pieces(text: str) -> list[Piece]:
    """A whole reply as a runtime would cut it: at the first stop string that is complete, again and again."""
    found: list[Piece] = []
    while True:
        ends = [(text.find(stop) + len(stop), stop) for stop in GRAMMAR.stops.strings if stop in text]
        if not ends:
            return [*found, GRAMMAR.read(drawn(text))]
        end, stop = min(ends)
        found.append(GRAMMAR.read(drawn(text[:end], stop)))
        text = text[end:]


@pytest.mark.parametrize(
    "reply",
    [
        "Step 1: I look.\nStep 2: I add.\nFinal answer: 9",
        "Step 1: I look.\n\nStep 2: I add.\n\nFinal answer: 9",
        "## Step 1: I look.\n## Step 2: I add.\n## Final answer: 9",
        "### Step 1: I look.\n\n### Step 2: I add.\n\n### Final Answer:\n9",
        "**Step 1:** I look.\n**Step 2:** I add.\n**Final answer:** 9",
        "**Step 1**: I look.\n**Step 2**: I add.\n**Final answer**: **9**",
        "STEP 1: I look.\nSTEP 2: I add.\nFINAL ANSWER: 9",
        "1. I look.\n2. I add.\nFinal answer: 9",
        "1. I look.\n2. I add.\n\nFinal answer: \\boxed{9}",
        "<think>Step 1: I look.\nStep 2: I add.\n</think>\nFinal answer: 9",
    ],
)
def test_each_mark_begins_a_step(reply: str) -> None:
    assert pieces(reply) == [Piece("step", "I look."), Piece("step", "I add."), Piece("answer", "9")]


def test_words_before_the_first_mark_are_a_step() -> None:
    assert [piece.text for piece in pieces("Let me see.\n\nStep 1: I look.\nFinal answer: 9")] == [
        "Let me see.",
        "I look.",
        "9",
    ]


@pytest.mark.parametrize(("before", "said"), [("<think>", "<think>"), ("\n", "Step")])
def test_a_mark_with_no_words_before_it_does_not_end_the_chain(before: str, said: str) -> None:
    assert [piece.text for piece in pieces(f"{before}\nStep 1: I look.\nFinal answer: 9")] == [said, "I look.", "9"]


def test_the_numbers_of_a_list_behind_a_final_answer_are_no_marks() -> None:
    assert GRAMMAR.goes_on(drawn(":\n1. ", "\n1. "))
    assert GRAMMAR.goes_on(drawn(":\n1. red\n2. ", "\n2. "))
    assert not GRAMMAR.goes_on(drawn("1: red\n2. ", "\n2. "))
    assert GRAMMAR.read(drawn(":\n1. red\n2. blue")) == Piece("answer", "1. red\n2. blue")


def test_a_step_keeps_its_lines_and_its_headline() -> None:
    reply = (
        "## Step 1: Look at the picture\n2019 shows 40.\n2020 shows 5.\n## Step 2: Add\n40 + 5 = 45\nFinal answer: 45"
    )
    assert [piece.text for piece in pieces(reply)] == [
        "Look at the picture\n2019 shows 40.\n2020 shows 5.",
        "Add\n40 + 5 = 45",
        "45",
    ]


@pytest.mark.parametrize(
    ("last", "answer", "reasoning"),
    [
        ("2: So it is $\\boxed{9}$.", "9", "2: So it is $\\boxed{9}$."),
        ("2: I add.\nThe answer is 9.", "9", "I add.\nThe answer is 9."),
        ("2: I add.\n9", "9", "I add."),
    ],
)
def test_a_last_step_may_hold_the_answer(last: str, answer: str, reasoning: str) -> None:
    piece = GRAMMAR.read(drawn(last))
    assert (piece.kind, piece.text, piece.fields.get("reasoning")) == ("answer", answer, reasoning)


@pytest.mark.parametrize("text", [":", "", ": \n", "** :**"])
def test_an_answer_that_says_nothing_is_broken(text: str) -> None:
    assert GRAMMAR.read(drawn(text)) == Piece("broken", text)


def test_a_step_that_a_token_limit_cut_goes_on_in_the_next_and_a_cut_answer_does_not() -> None:
    assert GRAMMAR.read(drawn("2: I ad", is_cut=True)) == Piece("step", "I ad")
    assert GRAMMAR.read(drawn(": 4", is_cut=True)) == Piece("truncated", ": 4")


@given(st.text(max_size=60), st.sampled_from([None, "\nStep ", "\nFinal answer", "\n2. "]), st.booleans())
def test_whatever_is_written_can_be_read(text: str, stop: str | None, is_cut: bool) -> None:
    piece = GRAMMAR.read(drawn(text + (stop or ""), stop, is_cut=is_cut))
    assert piece.kind in {"step", "answer"} or piece.text == text + (stop or "")


def numbered(prompt: Prompt, written: str, rng: random.Random) -> str:
    """As a chat model that was told to number its steps."""
    del prompt
    if written.endswith("Final answer"):
        return ": 9"
    number = max(written.count("Step "), 1)
    lead = "" if written else "Step "
    return f"{lead}{number}: I count {100 * number + rng.randint(1, 99)}.\n{'Step ' if number < 3 else 'Final answer'}"


@pytest.mark.parametrize("strategy", ["beam", "best_of_n", "self_consistency", "auto", "greedy"])
@pytest.mark.parametrize("writer", [None, numbered])
async def test_a_search_over_numbered_steps_comes_to_an_answer(strategy: str, writer: object) -> None:
    script = Script(writer=numbered) if writer else Script(grammar=GRAMMAR)
    policy = ScriptedEngine(script, vocabulary=ScriptedVocabulary(()))
    models = match(policy, ScriptedEngine(), grammar="marker")
    params = {"n": 4} if "n" in resolve(strategy).params.model_fields else {}
    result: Result = await solve(Question("How much is it?"), SearchSpec(strategy, params), models)
    assert result.is_complete
    assert str(result.chain.answer).isdigit()
    assert len(result.chain.steps) >= 2
    assert all(candidate.end in {"step", "answer"} for candidate in result.tree)


@pytest.mark.parametrize(
    ("vocabulary", "grammar"),
    [(ScriptedVocabulary(()), "paragraph"), (ScriptedVocabulary(), "cos")],
)
def test_auto_is_the_grammar_that_the_policy_was_trained_in_or_else_paragraphs(
    vocabulary: ScriptedVocabulary, grammar: str
) -> None:
    assert choose("auto", vocabulary).name == grammar
