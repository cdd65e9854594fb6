"""Tiny random checkpoints of every supported architecture, as `AutoModelForImageTextToText` and `AutoProcessor` load
them: a few layers 64 wide, pictures of 56 pixels, a byte-level tokenizer of its own."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from cos.ledger.tiny_model import token_id
from cos.search.grammars.cos import COS_TOKENS, Step, render_segments

Architecture = Literal["internvl", "llava_next", "qwen2_5_vl"]
ARCHITECTURES: tuple[Architecture, ...] = ("internvl", "llava_next", "qwen2_5_vl")

SIDE = 56
"""Pixels; pictures of any size are resized to this square (four image tokens in InternVL and Qwen, more in LLaVA)."""

CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
IMAGE: dict[Architecture, tuple[str, ...]] = {
    "internvl": ("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
    "llava_next": ("<image>",),
    "qwen2_5_vl": ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
}
PLACEHOLDER: dict[Architecture, str] = {
    "internvl": "<IMG_CONTEXT>\n",
    "llava_next": "<image>\n",
    "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>",
}
STEPS = (
    Step("Read row 1", "Row 1 shows 40.", "It has 2 digits."),
    Step("Add", "40 + 15 = 55.", "Both rows are used."),
)


def build(
    folder: Path, architecture: Architecture, *, cos_tokens: bool = True, tied: bool = False, seed: int = 0
) -> Path:
    """Writes a checkpoint into ``folder``, and gives that. ``cos_tokens``: whether it has the 17 tokens already."""
    tokenizer = build_tokenizer(architecture, cos_tokens=cos_tokens)
    torch.manual_seed(seed)
    model, processor = {"internvl": _internvl, "llava_next": _llava_next, "qwen2_5_vl": _qwen2_5_vl}[architecture](
        tokenizer, tied
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "position_embedding" in name or "class_embedding" in name or "image_newline" in name:
                parameter.normal_(std=0.02)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@cache
def _trained(architecture: Architecture, cos_tokens: bool) -> str:
    special = [*CHAT, *IMAGE[architecture], *(COS_TOKENS if cos_tokens else ())]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300 + len(special),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*render_segments(STEPS, "55"), "What is the total of all rows?"], trainer)
    return tokenizer.to_str()


def build_tokenizer(architecture: Architecture, *, cos_tokens: bool) -> PreTrainedTokenizerFast:
    """A byte-level BPE over a few sentences; digits stand alone."""
    extra: dict[str, str] = {}
    if architecture == "internvl":
        extra = {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        }
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(architecture, cos_tokens)),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[*IMAGE[architecture], *(COS_TOKENS if cos_tokens else ())],
        extra_special_tokens=extra,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def chat_template(architecture: Architecture) -> str:
    """ChatML with the architecture's picture placeholder."""
    return (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
        "{% if c.type in ('image', 'image_url') %}" + PLACEHOLDER[architecture] + "{% else %}{{ c.text }}{% endif %}"
        "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def _text(tokenizer: PreTrainedTokenizerFast, tied: bool) -> dict[str, Any]:
    return {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 1024,
        "tie_word_embeddings": tied,
        "bos_token_id": token_id(tokenizer, "<|im_start|>"),
        "eos_token_id": token_id(tokenizer, "<|im_end|>"),
        "pad_token_id": token_id(tokenizer, "<|endoftext|>"),
    }


def _internvl(tokenizer: PreTrainedTokenizerFast, tied: bool) -> tuple[PreTrainedModel, Any]:
    square = {"height": SIDE, "width": SIDE}
    config = InternVLConfig(
        vision_config={
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 96,
            "image_size": [SIDE, SIDE],
            "patch_size": [14, 14],
            "use_absolute_position_embeddings": True,
            "use_qk_norm": False,
            "norm_type": "layer_norm",
            "num_channels": 3,
        },
        text_config={"model_type": "qwen2", **_text(tokenizer, tied)},
        image_token_id=token_id(tokenizer, "<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=tied,
    )
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=square, min_patches=1, max_patches=1),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=square),
        image_seq_length=4,
        chat_template=chat_template("internvl"),
    )
    return InternVLForConditionalGeneration(config), processor


def _llava_next(tokenizer: PreTrainedTokenizerFast, tied: bool) -> tuple[PreTrainedModel, Any]:
    pinpoints = [[SIDE, SIDE]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=14,
            projection_dim=64,
        ),
        text_config=LlamaConfig(**_text(tokenizer, tied)),
        image_token_index=token_id(tokenizer, "<image>"),
        image_grid_pinpoints=pinpoints,
        image_seq_length=16,
        tie_word_embeddings=tied,
    )
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=pinpoints
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("llava_next"),
    )
    return LlavaNextForConditionalGeneration(config), processor


def _qwen2_5_vl(tokenizer: PreTrainedTokenizerFast, tied: bool) -> tuple[PreTrainedModel, Any]:
    ids = {token: token_id(tokenizer, token) for token in IMAGE["qwen2_5_vl"]}
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
            "window_size": 56,
        },
        text_config={
            **_text(tokenizer, tied),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tied,
    )
    pixels: dict[str, Any] = {"min_pixels": SIDE * SIDE, "max_pixels": SIDE * SIDE}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**pixels),
        chat_template=chat_template("qwen2_5_vl"),
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor
