"""Gemma3ForConditionalGeneration (google/gemma-3-*-it, 4B and larger)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.tiny.parts import WIDTH, language, scattered, tokenizer, with_tower_names

SPECIAL = (
    *("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
    *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
)
LINE_ENDS = tuple("\n" * count for count in range(1, 5))
"""The published tokenizer has a token for each number of them, up to 31."""
SIDE = 28
TEMPLATE = (
    "{{- bos_token }}"
    "{%- if messages[0].role == 'system' %}"
    "{%- set said = messages[0].content %}"
    "{%- set first = (said if said is string else said[0].text) + '\n\n' %}"
    "{%- set turns = messages[1:] %}"
    "{%- else %}{%- set first = '' %}{%- set turns = messages %}{%- endif %}"
    "{%- for turn in turns %}"
    "{%- if (turn.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('roles must alternate') }}{%- endif %}"
    "{{- '<start_of_turn>' + ('model' if turn.role == 'assistant' else turn.role) + '\n' }}"
    "{{- first if loop.first else '' }}"
    "{%- if turn.content is string %}{{- turn.content | trim }}{%- else %}{%- for part in turn.content %}"
    "{%- if part.type == 'image' %}{{- '<start_of_image>' }}{%- else %}{{- part.text | trim }}{%- endif %}"
    "{%- endfor %}{%- endif %}{{- '<end_of_turn>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}"
)


def write(folder: Path) -> Any:
    """Writes a checkpoint; the model."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor

    words = tokenizer(
        SPECIAL,
        template=TEMPLATE,
        eos="<eos>",
        pad="<pad>",
        ordinary=LINE_ENDS,
        bos_token="<bos>",
        unk_token="<unk>",
        extra_special_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    )
    config = Gemma3Config(
        text_config=language(
            words,
            bos_token_id=words.bos_token_id,
            head_dim=32,
            query_pre_attn_scalar=32,
            sliding_window=64,
            layer_types=["sliding_attention", "full_attention"],
            tie_word_embeddings=True,
        ),
        vision_config={
            "hidden_size": WIDTH,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": 7,
            "vision_use_head": False,
        },
        mm_tokens_per_image=4,
        boi_token_index=words.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=words.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=words.convert_tokens_to_ids("<image_soft_token>"),
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE}, do_pan_and_scan=False),
        tokenizer=words,
        image_seq_length=4,
        chat_template=TEMPLATE,
    )
    model = scattered(Gemma3ForConditionalGeneration(config))
    with torch.no_grad():
        # Embeddings are the head, too: large ones would have it say its last token again.
        model.get_input_embeddings().weight.mul_(0.05)
    model.save_pretrained(folder)
    with_tower_names(folder)
    processor.save_pretrained(folder)
    return model
