"""Text behind other text, and single tokens: as real tokenizers have them, in the context in which a PRM reads them."""

from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.engines.vocabulary import HfVocabulary
from cos.prm.encoding import continued, placed, single, untagged
from cos.search.errors import InputError
from tests.prm import tiny_text
from tests.prm.tokenizers_of_tests import pieces_of_bytes, words

KINDS = pytest.mark.parametrize("make", [words, pieces_of_bytes])


@KINDS
@pytest.mark.parametrize("text", [" She sells 9 eggs.", "\nStep 2: 4 + 5 = 9"])
def test_text_behind_other_text_has_the_ids_of_the_whole(
    make: Callable[[], PreTrainedTokenizerFast], text: str
) -> None:
    tokenizer = make()
    whole = tokenizer.encode(f"How many?{text}", add_special_tokens=False)
    before = tokenizer.encode("How many?", add_special_tokens=False)
    assert (*before, *continued(HfVocabulary(tokenizer), text)) == tuple(whole)


@KINDS
def test_a_single_token_is_the_one_that_stands_in_a_text(make: Callable[[], PreTrainedTokenizerFast]) -> None:
    tokenizer = make()
    for label in (" +", " -", " ки"):
        assert tokenizer.encode(f"eggs{label}")[-1] == single(HfVocabulary(tokenizer), label, "a label")
        assert single(HfVocabulary(tokenizer), label, "a label") != tokenizer.convert_tokens_to_ids(label.strip())


def test_a_control_token_is_meant_where_there_is_one() -> None:
    vocabulary = ScriptedVocabulary((" +",))
    assert single(vocabulary, " +", "a label") == vocabulary.control_id(" +")


def test_a_text_of_several_tokens_is_refused_with_its_role_and_what_it_takes() -> None:
    with pytest.raises(InputError, match=r"no single token ' ки' \(the step tag\) but makes it 5") as error:
        single(ScriptedVocabulary(()), " ки", "the step tag")
    assert error.value.param == "prm"


def test_a_text_that_is_joined_with_what_stands_before_it_is_refused() -> None:
    with pytest.raises(InputError, match=r"no single token '%' \(a label\) but joins it") as error:
        single(HfVocabulary(words("a% " * 40)), "%", "a label")
    assert error.value.param == "prm"


@KINDS
def test_a_label_that_begins_with_a_letter_is_the_token_without_a_space(
    make: Callable[[], PreTrainedTokenizerFast],
) -> None:
    tokenizer = make()
    assert single(HfVocabulary(tokenizer), "S", "a label") == tokenizer.convert_tokens_to_ids("S")


@KINDS
@pytest.mark.parametrize(("before", "text"), [("\n", "She sells 9 eggs."), ("a", " She sells"), ("\n", "- 3")])
def test_a_text_is_placed_behind_what_stands_before_it(
    make: Callable[[], PreTrainedTokenizerFast], before: str, text: str
) -> None:
    tokenizer = make()
    ids = tokenizer.encode(f"How many?{before}{text}", add_special_tokens=False)
    begin = tokenizer.encode(f"How many?{before}", add_special_tokens=False)
    assert (*begin, *placed(HfVocabulary(tokenizer), text, before)) == tuple(ids)


@pytest.mark.parametrize(
    ("tag", "text", "shown"),
    [
        (" ки", "It says ки", "It says к\u200bи"),
        (" +", "3 + 4", "3 \u200b+ 4"),
        (" \n\n\n\n", "One \n\n\n\nTwo\n\n", "One\n\nTwo"),
        (" ки", "It says k", "It says k"),
    ],
)
def test_a_tag_that_is_ordinary_text_is_parted_where_a_text_spells_it(tag: str, text: str, shown: str) -> None:
    vocabulary = HfVocabulary(tiny_text.tokenizer())
    its_id = single(vocabulary, tag, "the step tag")
    assert untagged(vocabulary, text, tag, its_id) == shown
    assert its_id not in vocabulary.encode(shown)


@pytest.mark.parametrize("before", ["", "a"])
def test_a_text_that_stands_alone_or_is_joined_with_what_is_before_it_has_its_own_ids(before: str) -> None:
    vocabulary = HfVocabulary(words("a% " * 40))
    assert placed(vocabulary, "% of it", before) == vocabulary.encode("% of it")
