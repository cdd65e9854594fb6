"""LlamaForCausalLM, which reads text alone (meta-llama/Llama-3.*-Instruct)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny.parts import language, scattered, tokenizer

SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TEMPLATE = (
    "{{- bos_token }}"
    "{%- if messages[0]['role'] == 'system' %}"
    "{%- set system_message = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}"
    "{%- else %}{%- set system_message = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n' }}"
    "{{- 'Today Date: 26 Jul 2024\n\n' + system_message + '<|eot_id|>' }}"
    "{%- for turn in messages %}"
    "{{- '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\n\n' + turn['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
"""As of Llama 3.1."""


def write(folder: Path) -> Any:
    """Writes a checkpoint; the model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer(
        SPECIAL, template=TEMPLATE, eos="<|eot_id|>", pad="<|end_of_text|>", bos_token="<|begin_of_text|>"
    )
    config = LlamaConfig(**language(words, bos_token_id=words.bos_token_id))
    model = scattered(LlamaForCausalLM(config))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return model
