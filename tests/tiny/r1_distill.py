"""Qwen2ForCausalLM in the layout of DeepSeek-R1-Distill-Qwen, which ThinkPRM and GenPRM began with: its chat template,
and tokens for turns and thoughts that are listed as ordinary text.

The weights are random, but for a habit: behind certain tokens the model mostly writes the next word of a verdict.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from tests.prm.tiny_text import tokenizer
from tests.tiny.parts import language, scattered

BEGIN, END = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
ORDINARY = ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")
"""Of several characters each, and not marked as special."""
TEMPLATE = (
    "{{ bos_token }}{%- for turn in messages if turn.role == 'system' %}{{ turn.content }}{%- endfor %}"
    "{%- for turn in messages %}"
    "{%- if turn.role == 'user' %}{{ '<｜User｜>' + turn.content }}"
    "{%- elif turn.role == 'assistant' %}"
    "{{ '<｜Assistant｜>' + turn.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{%- endif %}"
)
LABELS = (" Yes", " No", "Yes", "No")
HABITS = (
    ("\n", "\\boxed", "{correct", "}", "Is", " the", " solution", " correct", "?"),
    (" ", "It", " adds", " up", "</", "analyze", ">\n"),
)
"""The first of each is what a prompt ends with: ThinkPRM's, GenPRM's."""


def write(folder: Path) -> Any:
    """Writes a checkpoint; the model."""
    from tokenizers import AddedToken
    from transformers import Qwen2Config, Qwen2ForCausalLM

    written = tuple(word for habit in HABITS for word in habit if len(word) > 1)
    words = tokenizer((BEGIN, END), (*LABELS, *written))
    words.add_tokens([AddedToken(token, normalized=False, special=False) for token in ORDINARY])
    words.bos_token, words.eos_token, words.pad_token = BEGIN, END, END
    words.chat_template = TEMPLATE
    model = scattered(Qwen2ForCausalLM(Qwen2Config(**language(words, bos_token_id=words.bos_token_id))))
    with torch.no_grad():
        seen, said = model.get_input_embeddings().weight, model.lm_head.weight
        seen *= 20
        said *= 0.4
        for label in LABELS:
            said[word_id(words, label)] *= 4
        for one, other in (pair for habit in HABITS for pair in pairwise(habit)):
            toward = seen[word_id(words, one)]
            said[word_id(words, other)] += 1.6 * toward / toward.norm()
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return model


def word_id(words: Any, word: str) -> int:
    """The id of a word that is one token."""
    from tokenizers import pre_tokenizers

    whole: Any = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ((piece, _),) = whole.pre_tokenize_str(word)
    return words.convert_tokens_to_ids(piece)
