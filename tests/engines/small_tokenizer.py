"""A small tokenizer with control tokens, and texts that spell them."""

from typing import Any

from hypothesis import strategies as st

from cos.search.grammars.cos import COS_TOKENS

CHAT = ("<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>")
CONTROLS = (*CHAT, *COS_TOKENS)
LONGEST_FIRST = sorted(CONTROLS, key=len, reverse=True)

SPELT = st.lists(
    st.one_of(st.text(max_size=6), st.sampled_from(CONTROLS), st.sampled_from(CONTROLS).map(lambda token: token[1:])),
    max_size=8,
).map("".join)


def tokenizer(controls: tuple[str, ...] = CONTROLS) -> Any:
    """A byte-level BPE as Qwen's, small: every byte a token, a few merges, control tokens added."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "n"), ("Ġ", "t"), ("i", "m"), ("Ð", "º")]
    table = {piece: index for index, piece in enumerate([*alphabet, *(left + right for left, right in merges)])}
    raw = Tokenizer(models.BPE(vocab=table, merges=merges))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in controls])
    return PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False)
