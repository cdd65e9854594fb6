"""InternVLForConditionalGeneration, the layout of InternVL in transformers' own classes (OpenGVLab/InternVL3-*-hf)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny.internvl_chat import SPECIAL
from tests.tiny.parts import WIDTH, chat_ml, language, scattered, tokenizer

SIDE = 28


def write(folder: Path) -> Any:
    """Writes a checkpoint; the model."""
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    words = tokenizer(
        (*SPECIAL, "<video>"),
        template=chat_ml("<IMG_CONTEXT>\\n"),
        eos="<|im_end|>",
        pad="<|endoftext|>",
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    config = InternVLConfig(
        vision_config={
            "hidden_size": WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 96,
            "image_size": [SIDE, SIDE],
            "patch_size": [7, 7],
            "use_absolute_position_embeddings": True,
            "use_qk_norm": False,
            "norm_type": "layer_norm",
            "num_channels": 3,
        },
        text_config={"model_type": "qwen2", **language(words)},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    square = {"height": SIDE, "width": SIDE}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=square, crop_to_patches=True, min_patches=1, max_patches=4),
        tokenizer=words,
        video_processor=InternVLVideoProcessor(size=square),
        image_seq_length=4,
        chat_template=words.chat_template,
    )
    model = scattered(InternVLForConditionalGeneration(config))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model
