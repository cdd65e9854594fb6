"""Qwen2_5_VLForConditionalGeneration (Qwen/Qwen2.5-VL-*-Instruct)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny.parts import CONTEXT_TOKENS, WIDTH, chat_ml, language, scattered, tokenizer

SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
FEWEST_PIXELS, MOST_PIXELS = 4 * 28 * 28, 16 * 28 * 28
"""The published ones are 4 and 16384 times 28 x 28."""


def ids(words: Any) -> dict[str, Any]:
    """Of the tokens that a configuration names."""
    return {
        "image_token_id": words.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": words.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": words.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": words.convert_tokens_to_ids("<|vision_end|>"),
    }


def write(folder: Path, *, most_pixels: int = MOST_PIXELS, context_tokens: int = CONTEXT_TOKENS) -> Any:
    """Writes a checkpoint that sees pictures of up to ``most_pixels``; the model."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    words = tokenizer(
        SPECIAL,
        template=chat_ml(PICTURE, system="You are a helpful assistant."),
        eos="<|im_end|>",
        pad="<|endoftext|>",
        merged=("Yes", "No"),
    )
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": WIDTH,
            "intermediate_size": 96,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [1],
            "window_size": 56,
        },
        text_config={
            **language(words, max_position_embeddings=context_tokens),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        },
        tie_word_embeddings=False,
        **ids(words),
    )
    pixels: dict[str, Any] = {"min_pixels": FEWEST_PIXELS, "max_pixels": most_pixels}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=words,
        video_processor=Qwen2VLVideoProcessor(**pixels),
        chat_template=words.chat_template,
    )
    model = scattered(Qwen2_5_VLForConditionalGeneration(config))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model
