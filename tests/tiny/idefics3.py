"""Idefics3ForConditionalGeneration (HuggingFaceM4/Idefics3-8B-Llama3, HuggingFaceTB/SmolVLM-*-Instruct): SmolVLM's
kind of weights and template, over Llama 3's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.tiny import llama, smolvlm
from tests.tiny.parts import scattered, tokenizer

SPECIAL = (
    *llama.SPECIAL,
    *("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *smolvlm.ROWS_AND_COLUMNS),
)
SIDE = smolvlm.SIDE
TEMPLATE = smolvlm.TEMPLATE.replace("<|im_start|>", "<|begin_of_text|>")


def write(folder: Path) -> Any:
    """Writes a checkpoint; the model."""
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
    )

    words = tokenizer(
        SPECIAL, template=TEMPLATE, eos="<end_of_utterance>", pad="<|end_of_text|>", bos_token="<|begin_of_text|>"
    )
    config = Idefics3Config(**smolvlm.sizes(words))
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessor(
            size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=True
        ),
        tokenizer=words,
        image_seq_len=4,
        chat_template=TEMPLATE,
    )
    model = scattered(Idefics3ForConditionalGeneration(config))
    with torch.no_grad():
        # It must not write a picture's place: transformers looks for a picture there.
        model.lm_head.weight[config.image_token_id] = 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model
