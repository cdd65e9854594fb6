"""Qwen3VLForConditionalGeneration (Qwen/Qwen3-VL-*-Instruct and -Thinking)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny.parts import WIDTH, chat_ml, language, scattered, tokenizer
from tests.tiny.qwen2_5_vl import PICTURE, SPECIAL, ids

SIDE = 32
"""Pixels of a token of a picture."""


def write(folder: Path) -> Any:
    """Writes a checkpoint; the model."""
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    words = tokenizer(
        (*SPECIAL, "<think>", "</think>"), template=chat_ml(PICTURE), eos="<|im_end|>", pad="<|endoftext|>"
    )
    config = Qwen3VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": WIDTH,
            "intermediate_size": 96,
            "num_heads": 2,
            "patch_size": 16,
            "out_hidden_size": WIDTH,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        text_config={
            **language(words),
            "head_dim": 32,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
        },
        tie_word_embeddings=False,
        **ids(words),
    )
    size = {"shortest_edge": 4 * SIDE**2, "longest_edge": 16 * SIDE**2}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            size=size, patch_size=16, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]
        ),
        tokenizer=words,
        video_processor=Qwen3VLVideoProcessor(patch_size=16),
        chat_template=words.chat_template,
    )
    model = scattered(Qwen3VLForConditionalGeneration(config))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model
