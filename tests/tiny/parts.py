"""What the tiny checkpoints share: a byte-level tokenizer with a family's own special tokens, the sizes of a language
model, and weights that tell one prompt from another."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

WIDTH = 64
LAYERS = 2
CONTEXT_TOKENS = 2048
SENTENCES = (
    "What is the total of all rows in this picture?",
    "The first step is to read the numbers in each row.",
    "Which of the two pictures shows the taller bar, and how tall is it?",
    "An image beside another image, and behind each image a further image.",
)


@cache
def _trained() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer.to_str()


def _with_merges(described: str, words: tuple[str, ...]) -> str:
    """A tokenizer's description with merges for whole words."""
    found = json.loads(described)
    vocabulary, merges = found["model"]["vocab"], found["model"]["merges"]
    for word in words:
        for end in range(2, len(word) + 1):
            merges.append([word[: end - 1], word[end - 1]])
            vocabulary.setdefault(word[:end], len(vocabulary))
    return json.dumps(found)


def tokenizer(
    special: tuple[str, ...],
    *,
    template: str,
    eos: str,
    pad: str,
    ordinary: tuple[str, ...] = (),
    merged: tuple[str, ...] = (),
    **names: Any,
) -> Any:
    """A byte-level BPE over a few sentences, with these special tokens. ``ordinary``: further added tokens that are
    ordinary text. ``merged``: words that are one token, in ASCII. ``names``: of tokens, as its class has them."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer.from_str(_with_merges(_trained(), merged))
    raw.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    raw.add_tokens([AddedToken(token, normalized=False, special=False) for token in ordinary])
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token=eos,
        pad_token=pad,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_TOKENS,
        **names,
    )
    made.chat_template = template
    return made


def language(words: Any, **keys: Any) -> dict[str, Any]:
    """The configuration of a language model of a few layers."""
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": len(words),
        "max_position_embeddings": CONTEXT_TOKENS,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        **keys,
    }


def scattered(model: Any, seed: int = 0) -> Any:
    """The model with random weights that are large enough for every prompt to have its own continuation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 or "embedding" in name or "newline" in name or name.endswith("token"):
                parameter.normal_(std=0.15, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(std=0.05, generator=generator)
    return model.eval()


def with_tower_names(folder: Path) -> None:
    """Gives a saved vision tower the names that the published checkpoints have, which transformers 5 saves without
    ``vision_model``, and vLLM reads with it."""
    from safetensors.torch import load_file, save_file

    path, tower = folder / "model.safetensors", "vision_tower."
    weights = load_file(path)
    renamed = {
        f"{tower}vision_model.{name.removeprefix(tower)}" if name.startswith(tower) else name: weight
        for name, weight in weights.items()
    }
    save_file(renamed, path, {"format": "pt"})


CHAT_ML_TURNS = (
    "{%- for turn in messages %}{{- '<|im_start|>' + turn.role + '\n' }}"
    "{%- if turn.content is string %}{{- turn.content }}{%- else %}{%- for part in turn.content %}"
    "{%- if part.type in ('image', 'image_url') %}{{- PICTURE }}{%- elif 'text' in part %}{{- part.text }}{%- endif %}"
    "{%- endfor %}{%- endif %}{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def chat_ml(picture: str, *, system: str = "") -> str:
    """A chat template of ChatML that takes parts. ``system``: a message that stands first where there is none."""
    first = (
        "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\n" + system + "<|im_end|>\n' }}{%- endif %}"
        if system
        else ""
    )
    return first + CHAT_ML_TURNS.replace("PICTURE", f"'{picture}'")


CHAT_ML_TEXT = (
    "{%- for turn in messages %}{{- '<|im_start|>' + turn['role'] + '\n' + turn['content'] + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
"""A chat template of ChatML that takes text alone."""
