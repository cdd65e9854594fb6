"""A Hugging Face tokenizer as the search sees it: what a user or a policy spells never becomes a control token."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cos.engines.vocabulary import HfVocabulary, neutral_pieces
from cos.ledger import tiny_model as models
from cos.search.errors import InputError
from cos.search.grammars.cos import CosGrammar
from tests.engines.small_tokenizer import CHAT, CONTROLS, LONGEST_FIRST, SPELT, tokenizer
from tests.tiny import internlm2
from tests.training import tiny_models


@pytest.fixture(scope="module")
def vocabulary() -> HfVocabulary:
    return HfVocabulary(tokenizer())


@given(SPELT)
def test_pieces_are_the_text_and_none_holds_a_control_token(text: str) -> None:
    pieces = neutral_pieces(text, LONGEST_FIRST)
    assert "".join(pieces) == text
    assert not any(control in piece for piece in pieces for control in CONTROLS)


@given(st.text(alphabet="ab<|>", max_size=20), st.lists(st.text(alphabet="ab<|>", min_size=2, max_size=4), max_size=4))
def test_pieces_are_clean_for_any_set_of_control_tokens_even_nested_ones(text: str, controls: list[str]) -> None:
    pieces = neutral_pieces(text, controls)
    assert "".join(pieces) == text
    assert all(pieces)
    assert not any(control in piece for piece in pieces for control in controls)


def test_a_control_token_of_one_character_is_a_piece_of_its_own() -> None:
    assert neutral_pieces("a+b++<+>", ["<+>", "+"]) == ["a", "+", "b", "+", "+", "<", "+", ">"]


def test_text_without_control_tokens_is_left_in_one_piece() -> None:
    assert neutral_pieces("How much is it?", LONGEST_FIRST) == ["How much is it?"]
    assert neutral_pieces("", LONGEST_FIRST) == []


@given(SPELT)
def test_no_text_is_encoded_to_a_control_id_and_all_of_it_survives(vocabulary: HfVocabulary, text: str) -> None:
    ids = vocabulary.encode(text)
    assert not {vocabulary.control_id(token) for token in CONTROLS} & set(ids)
    assert vocabulary.decode(ids) == text


@pytest.mark.parametrize("token", CONTROLS)
def test_markup_is_encoded_to_its_control_id(vocabulary: HfVocabulary, token: str) -> None:
    assert vocabulary.encode_markup(f"a{token}b")[1] == vocabulary.control_id(token)
    assert len(vocabulary.encode_markup(token)) == 1
    assert vocabulary.decode(vocabulary.encode_markup(f"a{token}b")) == f"a{token}b"


def test_a_tokenizer_that_puts_spaces_around_control_tokens_is_read_without_them(tmp_path: Path) -> None:
    vocabulary = HfVocabulary(internlm2.write_tokenizer(tmp_path))
    text = "<|im_start|>user\n What is  it?<|im_end|>\n<|im_start|>assistant\n"
    assert vocabulary.decode(vocabulary.encode_markup(text)) == text
    for token in ("<|im_end|>", "<s>", "<img>"):
        assert vocabulary.decode((vocabulary.control_id(token) or 0,)) == token


def test_plain_text_has_the_same_ids_as_text_or_as_markup(vocabulary: HfVocabulary) -> None:
    assert vocabulary.encode("an image, to that") == vocabulary.encode_markup("an image, to that")


def test_what_is_no_control_token_has_no_control_id(vocabulary: HfVocabulary) -> None:
    assert vocabulary.control_id("an") is None
    assert vocabulary.control_id("<extra_0>") is None


def test_equal_tokenizers_have_equal_fingerprints_and_others_do_not(vocabulary: HfVocabulary) -> None:
    assert HfVocabulary(tokenizer()).fingerprint == vocabulary.fingerprint
    assert HfVocabulary(tokenizer(CONTROLS[::-1])).fingerprint != vocabulary.fingerprint
    assert HfVocabulary(tokenizer(CONTROLS[1:])).fingerprint != vocabulary.fingerprint


def test_a_tokenizer_with_the_step_tokens_satisfies_the_grammar(vocabulary: HfVocabulary) -> None:
    CosGrammar(vocabulary)
    with pytest.raises(InputError, match="lacks the step tokens"):
        CosGrammar(HfVocabulary(tokenizer(CHAT)))


MARK = "◆"
"""A control token of a single character: no text that spells it can be split."""
MARKED = (*CONTROLS, MARK, f"{MARK}end{MARK}", f"<{MARK}>")


def of_bytes(added: Sequence[str], pieces: Sequence[str] = ()) -> Any:
    """A BPE that spells what it does not know in bytes, as Llama's and Gemma's: ASCII and ``pieces`` are its tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    known = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *map(chr, range(32, 127)), *pieces]
    table = {piece: index for index, piece in enumerate(known)}
    raw = Tokenizer(models.BPE(vocab=table, merges=[], unk_token="<unk>", byte_fallback=True))
    raw.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    raw.add_tokens([AddedToken(token, normalized=False) for token in added])
    return PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False)


def in_python() -> Any:
    """A tokenizer that is written in Python: a token a byte."""
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer(extra_ids=0)


def adding(tokenizer: Any, tokens: Sequence[str]) -> Any:
    """The tokenizer with more control tokens."""
    from transformers import AddedToken

    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in tokens])
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "small": lambda: tokenizer(MARKED),
    "of_bytes": lambda: of_bytes(MARKED),
    "in_python": lambda: adding(in_python(), MARKED),
    "cos-tiny": lambda: adding(models.build_tokenizer(), MARKED),
    **{
        kind: (lambda kind=kind: adding(tiny_models.build_tokenizer(kind, cos_tokens=True), MARKED))
        for kind in tiny_models.ARCHITECTURES
    },
}
"""Every kind of tokenizer, with control tokens of one character and around it."""


@pytest.fixture(scope="module", params=TOKENIZERS)
def marked(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()


@settings(max_examples=60)
@given(st.lists(st.one_of(st.text(max_size=6), st.sampled_from(MARKED)), max_size=8).map("".join))
def test_a_control_token_of_one_character_stays_text_too(marked: Any, text: str) -> None:
    vocabulary = HfVocabulary(marked)
    ids = vocabulary.encode(text)
    assert not {vocabulary.control_id(token) for token in MARKED} & set(ids)
    assert vocabulary.decode(ids) == text


@pytest.mark.parametrize("text", ["How much is it?", " 1,200 €\n\n", "naïve — «all» of it 👩‍🔬", ""])
def test_ordinary_text_has_the_ids_that_the_tokenizer_gives(marked: Any, text: str) -> None:
    assert list(HfVocabulary(marked).encode(text)) == marked.encode(text, add_special_tokens=False)


def test_markup_of_one_character_is_encoded_to_its_control_id(marked: Any) -> None:
    vocabulary = HfVocabulary(marked)
    vocabulary.encode(f"a{MARK}b")
    assert vocabulary.control_id(MARK) in vocabulary.encode_markup(f"a{MARK}b")


def test_a_character_that_has_no_other_id_keeps_the_one_it_has() -> None:
    listed = of_bytes(["\n", MARK], pieces=["\n"])
    vocabulary = HfVocabulary(listed)
    (newline,) = listed.encode("\n", add_special_tokens=False)
    assert list(vocabulary.encode("1\n2")) == listed.encode("1\n2", add_special_tokens=False)
    assert newline in vocabulary.encode("1\n2")
    assert vocabulary.control_id(MARK) not in vocabulary.encode(f"1\n{MARK}")


def test_a_run_of_line_ends_is_ordinary_text_even_where_the_tokenizer_lists_it() -> None:
    from tests.tiny.parts import tokenizer as listing

    words = listing(("<end>",), template="", eos="<end>", pad="<end>", ordinary=("\n\n", "\n\n\n"))
    text = "One.\n\nTwo.\n\n\n<end>"
    vocabulary = HfVocabulary(words)
    assert vocabulary.encode("One.\n\nTwo.\n\n\n") == tuple(words.encode("One.\n\nTwo.\n\n\n"))
    assert words.convert_tokens_to_ids("<end>") not in vocabulary.encode(text)
    assert vocabulary.decode(vocabulary.encode(text)) == text
