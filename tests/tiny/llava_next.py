"""LlavaNextForConditionalGeneration over Mistral (llava-hf/llava-v1.6-mistral-7b-hf)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny.parts import WIDTH, language, scattered, tokenizer, with_tower_names

SPECIAL = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
SIDE = 28
GRID = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
TEMPLATE = (
    "{%- for turn in messages %}"
    "{%- if turn.role == 'system' %}{{- '<<SYS>>\n' + turn.content[0].text + '\n<</SYS>>\n\n' }}"
    "{%- elif turn.role == 'user' %}{{- '[INST] ' }}"
    "{%- for part in turn.content if part.type == 'image' %}{{- '<image>\n' }}{%- endfor %}"
    "{%- for part in turn.content if part.type == 'text' %}{{- part.text }}{%- endfor %}{{- ' [/INST]' }}"
    "{%- else %}{%- for part in turn.content %}{{- ' ' + part.text }}{%- endfor %}{{- '</s> ' }}{%- endif %}"
    "{%- endfor %}"
)
"""Pictures of a turn before its text."""


def write(folder: Path) -> Any:
    """Writes a checkpoint; the model."""
    from transformers import (
        CLIPVisionConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
        MistralConfig,
    )

    words = tokenizer(SPECIAL, template=TEMPLATE, eos="</s>", pad="<pad>", bos_token="<s>", unk_token="<unk>")
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=7,
            projection_dim=WIDTH,
        ),
        text_config=MistralConfig(**language(words, bos_token_id=words.bos_token_id, sliding_window=None)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=GRID,
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=GRID
        ),
        tokenizer=words,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    model = scattered(LlavaNextForConditionalGeneration(config))
    model.save_pretrained(folder)
    with_tower_names(folder)
    processor.save_pretrained(folder)
    return model
