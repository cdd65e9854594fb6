"""Chains are written as the paper writes them, and whatever a policy may write instead is told apart."""

from collections.abc import Sequence

import pytest

from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.search.errors import InputError
from cos.search.grammars.cos import (
    ANSWER_END,
    ANSWER_START,
    COS_TOKENS,
    LABEL_BAD,
    LABEL_GOOD,
    NAME_END,
    POLICY_TOKENS,
    REASONING_BACKTRACK,
    STEP_END,
    STEP_TAG,
    THOUGHT_START,
    CosGrammar,
    Step,
    answer_text,
    extract_answer,
    piece_of,
    render_segments,
    segment_ids,
    spans_of,
    step_of,
    step_piece,
    step_text,
)
from cos.search.ports import Drawn, Stops
from cos.search.types import Piece

READ = Step("Read the bars", "2019 shows 40, 2020 shows 55.", "Both values are printed above the bars.")
SUBTRACT = Step("Subtract", "55 - 40 = 15.", "Uses the two values of the previous step.")

GOLDEN = """\
<|reasoning_start|>
<|reasoning_step_start|>
<|reasoning_step_name_start|>Read the bars<|reasoning_step_name_end|>
<|reasoning_step_thought_start|>2019 shows 40, 2020 shows 55.<|reasoning_step_thought_end|>
<|reasoning_step_reflection_start|>Both values are printed above the bars.<|reasoning_step_reflection_end|>
<|reasoning_step_end|>ки
<|reasoning_proceed|>
<|reasoning_step_start|>
<|reasoning_step_name_start|>Subtract<|reasoning_step_name_end|>
<|reasoning_step_thought_start|>55 - 40 = 15.<|reasoning_step_thought_end|>
<|reasoning_step_reflection_start|>Uses the two values of the previous step.<|reasoning_step_reflection_end|>
<|reasoning_step_end|>ки
<|reasoning_end|>
Answer:
<|answer_start|>15<|answer_end|>ки"""


@pytest.fixture(scope="module")
def vocabulary() -> ScriptedVocabulary:
    return ScriptedVocabulary()


@pytest.fixture(scope="module")
def grammar(vocabulary: ScriptedVocabulary) -> CosGrammar:
    return CosGrammar(vocabulary)


def drawn(ids: Sequence[int], stops: Stops, *, cut: bool = False) -> Drawn:
    """What a policy wrote, as an engine tells it."""
    is_stop = not cut and bool(ids) and ids[-1] in stops.token_ids
    return Drawn(
        written=tuple(ids),
        text=ScriptedVocabulary().decode(ids),
        tokens=len(ids),
        finish="length" if cut else "stop",
        stop=ids[-1] if is_stop else None,
        logprob=None,
        prompt_tokens=0,
        cached_tokens=0,
    )


def read(grammar: CosGrammar, text: str, *, cut: bool = False) -> Piece:
    return grammar.read(drawn(ScriptedVocabulary().encode_markup(text), grammar.stops, cut=cut))


def whole_step(step: Step = READ) -> str:
    return step_text(step, first=True)


def whole_answer(answer: str) -> str:
    return answer_text(answer, first=False)


def test_the_papers_chain_is_serialised_exactly_with_the_tag_glued_to_each_segment() -> None:
    assert "".join(segment + STEP_TAG for segment in render_segments([READ, SUBTRACT], "15")) == GOLDEN


def test_two_steps_and_an_answer_carry_three_tags() -> None:
    assert GOLDEN.count(STEP_TAG) == 3


def test_the_pieces_of_a_segment_hold_control_tokens_and_plain_text_apart() -> None:
    for content, first in ((READ, True), ("15", False)):
        for text, is_control in spans_of(piece_of(content), first=first):
            assert text in COS_TOKENS if is_control else not any(token in text for token in COS_TOKENS)


def test_a_chain_is_read_back_as_it_was_written(grammar: CosGrammar) -> None:
    first, second, last = render_segments([READ, SUBTRACT], "15")

    assert read(grammar, first) == piece_of(READ)
    assert read(grammar, second) == piece_of(SUBTRACT)
    assert read(grammar, last) == piece_of("15")


def test_a_chain_without_steps_is_an_answer(grammar: CosGrammar) -> None:
    (only,) = render_segments([], "15")
    assert only.startswith("<|reasoning_start|>\n<|reasoning_end|>\n")
    assert read(grammar, only) == piece_of("15")


def test_a_segment_stops_at_the_end_of_a_step_or_of_an_answer(
    grammar: CosGrammar, vocabulary: ScriptedVocabulary
) -> None:
    assert grammar.stops == Stops((vocabulary.control_id(STEP_END) or 0, vocabulary.control_id(ANSWER_END) or 0))


def test_a_segment_cut_by_a_limit_is_truncated_even_if_it_looks_whole(grammar: CosGrammar) -> None:
    assert read(grammar, whole_step(), cut=True) == Piece("truncated", whole_step())
    assert read(grammar, whole_step()[:40], cut=True) == Piece("truncated", whole_step()[:40])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I think it is 15.",
        "<|im_end|>",
        STEP_END,
        ANSWER_END,
        f"15{ANSWER_END}",
        f"Answer:\n{ANSWER_START}{ANSWER_END}",
        f"Answer:\n{ANSWER_START} ( ) {ANSWER_END}",
        whole_step().removesuffix(STEP_END),
        whole_step().removesuffix(STEP_END) + "<|im_end|>",
        whole_step().replace(NAME_END, ""),
        whole_step().replace(THOUGHT_START, ""),
        whole_answer("15").replace(ANSWER_START, ""),
        whole_answer("15").removesuffix(ANSWER_END) + STEP_END,
    ],
)
def test_text_that_lacks_a_field_or_its_end_is_broken(grammar: CosGrammar, text: str) -> None:
    assert read(grammar, text) == Piece("broken", text)


@pytest.mark.parametrize("token", [STEP_TAG, LABEL_GOOD, LABEL_BAD])
def test_a_segment_that_carries_a_prm_token_is_broken(grammar: CosGrammar, token: str) -> None:
    stained = Step(READ.name, f"It is good. {token}", READ.reflection)
    assert read(grammar, whole_step(stained)).kind == "broken"
    assert read(grammar, whole_answer(f"15{token}")).kind == "broken"


def test_the_tag_as_plain_text_is_only_text(grammar: CosGrammar, vocabulary: ScriptedVocabulary) -> None:
    ids = segment_ids(vocabulary, Step("Name", f"как и {STEP_TAG}", "Fine"), first=True)
    found = grammar.read(drawn(ids, grammar.stops))
    assert found == piece_of(Step("Name", f"как и {STEP_TAG}", "Fine"))


@pytest.mark.parametrize("answer", ["книжки", "Очки", "к+и", "5 < 7 > 3", "<|image|>"])
def test_an_answer_in_letters_that_the_tag_has_is_an_answer(
    grammar: CosGrammar, vocabulary: ScriptedVocabulary, answer: str
) -> None:
    start, end = vocabulary.encode_markup(ANSWER_START), vocabulary.encode_markup(ANSWER_END)
    ids = [*start, *vocabulary.encode(answer), *end]
    assert grammar.read(drawn(ids, grammar.stops)) == piece_of(answer)


@pytest.mark.parametrize("token", POLICY_TOKENS)
def test_an_answer_that_holds_a_token_of_the_chain_is_none(grammar: CosGrammar, token: str) -> None:
    if token not in (ANSWER_START, ANSWER_END):
        assert read(grammar, whole_answer(f"15{token}16")).kind == "broken"


def test_white_space_around_tokens_and_words_before_the_answer_are_tolerated(grammar: CosGrammar) -> None:
    spaced = whole_step().replace("\n", " \n\n ").replace("Read the bars", "  Read the bars ")
    assert read(grammar, spaced) == piece_of(READ)
    assert read(grammar, f"So: {ANSWER_START} 15\n{ANSWER_END}") == piece_of("15")


def test_a_field_may_run_over_several_lines(grammar: CosGrammar) -> None:
    step = Step("Add", "1 + 1\n= 2", "Fine")
    assert read(grammar, whole_step(step)) == piece_of(step)


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        (" 15 ", "15"),
        ("(A)", "A"),
        ("( A )", "A"),
        ("((A), B)", "((A), B)"),
        ("(0, 1)", "(0, 1)"),
        ("(1), (2)", "(1), (2)"),
        ("f(x)", "f(x)"),
        ("(1, 2", "(1, 2"),
        ("The answer is A.", "The answer is A."),
        ("()", ""),
        ("", ""),
    ],
)
def test_brackets_around_one_value_are_dropped_and_those_of_a_point_kept(written: str, answer: str) -> None:
    assert extract_answer(written) == answer


def test_a_vocabulary_without_step_tokens_is_refused_by_their_names() -> None:
    with pytest.raises(InputError, match=r"lacks the step tokens .*<\|answer_end\|>; give a policy") as error:
        CosGrammar(ScriptedVocabulary([token for token in COS_TOKENS if token != ANSWER_END]))
    assert error.value.param == "policy"


def test_the_backtrack_token_that_no_code_uses_may_be_missing() -> None:
    CosGrammar(ScriptedVocabulary([token for token in COS_TOKENS if token != REASONING_BACKTRACK]))


def test_the_fields_of_a_step_are_a_mapping_of_its_parts() -> None:
    fields = step_piece(Step("Add", "1 + 1 = 2", "Right.")).fields
    assert dict(fields) == {"name": "Add", "thought": "1 + 1 = 2", "reflection": "Right."} == fields
    assert list(fields.values()) == list(dict(fields).values())
    same, other = (step_piece(Step("Add", "1 + 1 = 2", reflection)).fields for reflection in ("Right.", "Wrong."))
    assert (fields != same, fields != dict(fields), dict(fields) != fields) == (False, False, False)
    assert fields != other
    with pytest.raises(KeyError):
        fields["score"]


def test_a_step_of_another_grammar_is_all_thought_also_where_it_calls_a_part_so() -> None:
    fields = {"observation": "I see 1 and 1.", "thought": "That is 2."}
    assert step_of(Piece("step", "I see 1 and 1. That is 2.", fields)) == Step("", "I see 1 and 1. That is 2.", "")
    assert step_of(Piece("step", "That is 2.", {"thought": "That is 2."})) == Step("", "That is 2.", "")


def test_a_step_whose_parts_are_all_empty_says_nothing() -> None:
    assert not step_piece(Step("", "", "")).text
