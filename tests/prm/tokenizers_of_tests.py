"""Two kinds of tokenizer that published models have: words with the space before them, and pieces of bytes."""

from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = (
    "How many eggs are sold? Step 1: Janet sells 16 - 3 - 4 = 9 eggs. ки\nStep 2: She makes 9 * 2 = 18 dollars. ки\n",
    "The answer is: 18 ки\nStep 3: 4 + 5 = 9 + - and ки",
)


def words(more: str = "") -> PreTrainedTokenizerFast:
    """As Llama 2 and Mistral: a space is put before a text, and a word's token begins with its space. ``more``: text to
    learn words of."""
    raw: Any = Tokenizer(models.BPE(unk_token="<unk>"))
    # Trained with cuts that it does not make afterwards, as the published ones were: no token joins two words.
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("\n"), "isolated"), pre_tokenizers.Split(Regex("▁"), "merged_with_next")]
    )
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    alphabet = [chr(code) for code in (*range(33, 127), *range(0x430, 0x450))]
    raw.train_from_iterator(
        (*CORPUS * 3, more),
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<unk>", "<s>"], initial_alphabet=[*alphabet, "\n", "\u200b"]
        ),
    )
    raw.pre_tokenizer = None
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return _finished(raw)


def pieces_of_bytes(more: str = "") -> PreTrainedTokenizerFast:
    """As GPT-2, Llama 3 and Qwen. ``more``: text to learn words of."""
    raw: Any = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        (*CORPUS * 3, more), trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>"], initial_alphabet=alphabet)
    )
    return _finished(raw)


def _finished(raw: Any) -> PreTrainedTokenizerFast:
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", raw.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>")
