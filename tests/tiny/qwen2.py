"""Qwen2ForCausalLM, which reads text alone (Qwen/Qwen2.5-*-Instruct)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny.parts import chat_ml, language, scattered, tokenizer

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SYSTEM = "You are a helpful assistant."


def write(folder: Path) -> Any:
    """Writes a checkpoint; the model."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from tests.tiny.parts import CHAT_ML_TEXT

    system = chat_ml("", system=SYSTEM).partition("{%- for turn")[0]
    words = tokenizer(SPECIAL, template=system + CHAT_ML_TEXT, eos="<|im_end|>", pad="<|endoftext|>")
    model = scattered(Qwen2ForCausalLM(Qwen2Config(**language(words))))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return model
