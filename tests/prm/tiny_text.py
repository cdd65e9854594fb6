"""A small language model with random weights, in the layout of Qwen2, whose tokenizer has what published PRMs read."""

from pathlib import Path
from typing import Any

QWEN2_CUTS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT = ("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")
CONTROLS = ("<|endoftext|>", *CHAT, "<prm>", "<extra_0>")
SINGLE = (" ки", " +", " -", "Yes", "No", " \n\n\n\n", "\n\n", ":\n")
"""Ordinary tokens of several characters."""
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<IMG_CONTEXT>\n{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(controls: tuple[str, ...] = CONTROLS, single: tuple[str, ...] = SINGLE) -> Any:
    """Pieces of bytes, cut as Qwen2 cuts. ``single``: ordinary tokens of several characters."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    whole: Any = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    table = {piece: index for index, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    for text in single:
        ((letters, _),) = whole.pre_tokenize_str(text)
        for end in range(2, len(letters) + 1):
            merge = (letters[: end - 1], letters[end - 1])
            if merge not in merges:
                merges.append(merge)
            table.setdefault(letters[:end], len(table))
    raw: Any = Tokenizer(models.BPE(vocab=table, merges=merges))
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2_CUTS), "isolated"), whole])
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in controls])
    made = PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False)
    made.chat_template = CHATML
    return made


def write_model(folder: Path) -> None:
    """The checkpoint as files."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    words = tokenizer()
    words.pad_token = words.eos_token = "<|im_end|>"
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.2,
        tie_word_embeddings=False,
        pad_token_id=words.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        # Sharp in what it attends to, not in what it predicts: scores that are all 0 or 1 say nothing.
        model.lm_head.weight *= 0.3
    model.save_pretrained(folder)
    words.save_pretrained(folder)
