"""The CoS format's tokens in the vocabularies of its published checkpoints and of ours: they are found by their
strings, wherever they stand, and a tokenizer without them is refused by their names."""

from typing import Any

import pytest

from cos.checkpoints import embedded
from cos.engines.vocabulary import HfVocabulary
from cos.prm import menu
from cos.prm.cos import CosPrm, ReadingMarks, reading_marks
from cos.prm.ports import Checkpoint
from cos.search.errors import InputError
from cos.search.grammars.cos import COS_TOKENS, PRM_TOKENS, CosGrammar

INTERNVL_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
LAYOUTS = {"Qwen2.5": 151_674, "InternLM2": 92_553}
"""How many tokens InternVL2.5's tokenizer has on either: CoS adds its own behind them, in the order of its code."""


def vocabulary(tokens: int, added: tuple[str, ...] = COS_TOKENS) -> HfVocabulary:
    """A vocabulary of so many tokens, most of which stand for nothing, and the ``added`` ones behind them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(f"[{number}]" for number in range(tokens - len(alphabet) - len(INTERNVL_TOKENS)))]
    raw: Any = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in (*INTERNVL_TOKENS, *added)])
    return HfVocabulary(PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False))


@pytest.mark.parametrize(("language_model", "tokens"), LAYOUTS.items())
def test_the_tokens_of_the_published_tokenizers_are_found_by_their_strings(language_model: str, tokens: int) -> None:
    del language_model
    found = vocabulary(tokens)
    last = tokens + len(COS_TOKENS) - 1
    assert reading_marks(found) == ReadingMarks("ки", last - 2, ("к+и", "к-и"), (last - 1, last))
    CosGrammar(found)
    config = {"architectures": ["InternVLChatModel"], "model_type": "internvl_chat"}
    checkpoint = Checkpoint(name="CoS-PRM", config=config, files=frozenset(), vocabulary=found)
    assert [name for name, prm_format in menu.menu().items() if prm_format.recognises(checkpoint)] == [CosPrm.name]


def test_those_of_our_own_checkpoint_are_found_by_the_same_strings() -> None:
    from transformers import AutoTokenizer

    words: Any = AutoTokenizer.from_pretrained(embedded("prm"))
    marks = reading_marks(HfVocabulary(words))
    assert [marks.tag_id, *marks.label_ids] == words.convert_tokens_to_ids(list(PRM_TOKENS))


@pytest.mark.parametrize(("language_model", "tokens"), LAYOUTS.items())
def test_the_tokenizer_of_a_model_that_was_not_trained_in_cos_is_refused_by_what_it_lacks(
    language_model: str, tokens: int
) -> None:
    del language_model
    bare = vocabulary(tokens, ())
    with pytest.raises(InputError, match="tokenizer lacks 'ки', 'к\\+и', 'к-и'"):
        reading_marks(bare)
    with pytest.raises(InputError, match="lacks the step tokens"):
        CosGrammar(bare)
