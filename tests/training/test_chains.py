"""Chains as token ids: what is taught where, and what the exact checker says of it."""

import pytest
from transformers import PreTrainedTokenizerFast

from cos.search.grammar import COS_TOKENS, STEP_TAG
from cos.training.chains import UNKNOWN, chain_text, encode_policy, encode_prm, segments_of
from cos.training.ledger import Derivation, Problem, derive
from cos.training.models import CONTROL_TOKENS, IMAGE_TOKENS, build_tokenizer

PROBLEM = Problem(("47", "85"), "total")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def written(answer_digits: list[int]) -> Derivation:
    """A derivation whose rows were read as the given digits."""
    digits = iter(answer_digits)
    return derive(PROBLEM, lambda what, value: next(digits) if what == "read" else value)


def test_every_control_token_is_one_id(tokenizer: PreTrainedTokenizerFast) -> None:
    for token in (*CONTROL_TOKENS, *COS_TOKENS):
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1, token


def test_sft_teaches_the_whole_assistant_turn_and_nothing_else(tokenizer: PreTrainedTokenizerFast) -> None:
    gold = derive(PROBLEM)
    encoded = encode_policy(tokenizer, PROBLEM.question, gold, IMAGE_TOKENS)
    taught = [token for token in encoded.should if token != UNKNOWN]
    assert tokenizer.decode(taught) == chain_text(gold, tagged=False) + "<|im_end|>"


def test_a_gold_chain_is_good_at_every_tag(tokenizer: PreTrainedTokenizerFast) -> None:
    gold = derive(PROBLEM)
    encoded = encode_prm(tokenizer, PROBLEM.question, segments_of(gold), gold, IMAGE_TOKENS, True)
    at_tags = [v for v, tag in zip(encoded.verdict, encoded.is_tag, strict=True) if tag]
    assert at_tags == [1.0] * (len(gold.steps) + 1)
    assert encoded.ids.count(tokenizer.get_vocab()[STEP_TAG]) == len(gold.steps) + 1


def test_a_misread_row_is_bad_from_the_wrong_digit_on(tokenizer: PreTrainedTokenizerFast) -> None:
    gold, wrong = derive(PROBLEM), written([1, 7, 8, 5])
    encoded = encode_prm(tokenizer, PROBLEM.question, segments_of(wrong), gold, IMAGE_TOKENS, False)
    at_tags = [v for v, tag in zip(encoded.verdict, encoded.is_tag, strict=True) if tag]
    assert at_tags == [0.0] * len(at_tags), "row 1 was misread: no step after it leads to the gold answer"
    first_bad = encoded.verdict.index(0.0)
    assert tokenizer.decode([encoded.ids[first_bad]]) == "1"
    assert tokenizer.decode([encoded.should[first_bad]]) == "4", "what should stand there is known"
    differ = [i for i, token in enumerate(encoded.should) if token not in (UNKNOWN, encoded.ids[i])]
    assert differ == [first_bad], "later mistakes carry the first one on: what should stand there is another question"


def test_an_answer_may_be_right_after_a_misread_row(tokenizer: PreTrainedTokenizerFast) -> None:
    gold, wrong = derive(PROBLEM), written([1, 7, 8, 5])
    encoded = encode_prm(tokenizer, PROBLEM.question, segments_of(wrong), gold, IMAGE_TOKENS, True)
    at_tags = [v for v, tag in zip(encoded.verdict, encoded.is_tag, strict=True) if tag]
    assert at_tags[-2:] == [0.0, 1.0]


def test_the_prm_text_is_the_policy_text_with_tags(tokenizer: PreTrainedTokenizerFast) -> None:
    gold = derive(PROBLEM)
    assert chain_text(gold, tagged=True).replace(STEP_TAG, "") == chain_text(gold, tagged=False)
