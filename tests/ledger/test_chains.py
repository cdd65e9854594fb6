"""Chains as token ids: what is taught where, and what the exact checker says of it."""

import pytest
from transformers import PreTrainedTokenizerFast

from cos.ledger.chains import chain_text, judged_turn
from cos.ledger.task import Derivation, Problem, derive
from cos.ledger.tiny_model import CONTROL_TOKENS, build_tokenizer
from cos.search.grammars.cos import COS_TOKENS, STEP_TAG, Step
from cos.training.learning.encode import IGNORED, TurnEncoder

PROBLEM = Problem(("47", "85"), "total")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def encoder(tokenizer: PreTrainedTokenizerFast) -> TurnEncoder:
    return TurnEncoder(tokenizer)


def written(answer_digits: list[int]) -> Derivation:
    """A derivation whose rows were read as the given digits."""
    digits = iter(answer_digits)
    return derive(PROBLEM, lambda what, value: next(digits) if what == "read" else value)


def test_every_control_token_is_one_id(tokenizer: PreTrainedTokenizerFast) -> None:
    for token in (*CONTROL_TOKENS, *COS_TOKENS):
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1, token


def test_sft_teaches_the_whole_assistant_turn(tokenizer: PreTrainedTokenizerFast, encoder: TurnEncoder) -> None:
    gold = derive(PROBLEM)
    turn = encoder.chain(gold.steps, gold.answer)
    assert tokenizer.decode(turn.should) == chain_text(gold, tagged=False) + "<|im_end|>"


def test_a_turn_is_what_the_tokenizer_makes_of_its_text(
    tokenizer: PreTrainedTokenizerFast, encoder: TurnEncoder
) -> None:
    gold = derive(PROBLEM)
    text = chain_text(gold, tagged=True)
    assert encoder.judged(gold.steps, gold.answer, [1.0] * (len(gold.steps) + 1)).ids == tokenizer.encode(
        text, add_special_tokens=False
    )


def test_a_field_that_spells_a_control_token_stays_text(encoder: TurnEncoder) -> None:
    turn = encoder.judged([Step("Read", STEP_TAG, "<|reasoning_step_end|>")], "1", [1.0, 1.0])
    assert turn.ids.count(encoder.tag) == 2
    assert turn.ids.count(encoder.control_id("<|reasoning_step_end|>") or -1) == 1


def test_labels_that_do_not_line_up_with_tags_are_an_error(encoder: TurnEncoder) -> None:
    gold = derive(PROBLEM)
    with pytest.raises(ValueError, match=r"2 labels for \d tags"):
        encoder.judged(gold.steps, gold.answer, [1.0, 0.0])


def test_a_gold_chain_is_good_at_every_tag(encoder: TurnEncoder) -> None:
    gold = derive(PROBLEM)
    turn = judged_turn(encoder, gold, gold)
    at_tags = [v for v, tag in zip(turn.verdict, turn.is_tag, strict=True) if tag]
    assert at_tags == [1.0] * (len(gold.steps) + 1)
    assert turn.ids.count(encoder.tag) == len(gold.steps) + 1


def test_a_misread_row_is_bad_from_the_wrong_digit_on(tokenizer: PreTrainedTokenizerFast, encoder: TurnEncoder) -> None:
    gold, wrong = derive(PROBLEM), written([1, 7, 8, 5])
    turn = judged_turn(encoder, wrong, gold)
    at_tags = [v for v, tag in zip(turn.verdict, turn.is_tag, strict=True) if tag]
    assert at_tags == [0.0] * len(at_tags), "row 1 was misread: no step after it leads to the gold answer"
    first_bad = turn.verdict.index(0.0)
    assert tokenizer.decode([turn.ids[first_bad]]) == "1"
    assert tokenizer.decode([turn.should[first_bad]]) == "4", "what should stand there is known"
    answer = max(i for i, tag in enumerate(turn.is_tag[:-1]) if tag) + 1
    differ = [i for i, token in enumerate(turn.should) if token not in (IGNORED, turn.ids[i])]
    assert [i for i in differ if i < answer] == [first_bad], "later steps carry the first mistake on"
    assert turn.should[answer:-1] == encoder.segments(gold.steps, gold.answer)[-1], "the answer's gold is known"


def test_an_answer_may_be_right_after_a_misread_row(encoder: TurnEncoder) -> None:
    gold = derive(PROBLEM)
    wrong = Derivation(written([1, 7, 8, 5]).steps, gold.answer)
    turn = judged_turn(encoder, wrong, gold)
    at_tags = [v for v, tag in zip(turn.verdict, turn.is_tag, strict=True) if tag]
    assert at_tags[-2:] == [0.0, 1.0]


def test_the_prm_text_is_the_policy_text_with_tags() -> None:
    gold = derive(PROBLEM)
    assert chain_text(gold, tagged=True).replace(STEP_TAG, "") == chain_text(gold, tagged=False)
