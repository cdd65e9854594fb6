"""SmolVLMForConditionalGeneration (HuggingFaceTB/SmolVLM2-*)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny.parts import WIDTH, language, scattered, tokenizer

ROWS_AND_COLUMNS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<fake_token_around_image>", "<image>", "<end_of_utterance>"),
    *("<global-img>", *ROWS_AND_COLUMNS),
)
SIDE = 28
TEMPLATE = (
    "{{- '<|im_start|>' }}{%- for turn in messages %}{{- turn.role | capitalize }}"
    "{{- ':' if turn.content[0].type == 'image' else ': ' }}"
    "{%- for part in turn.content %}"
    "{%- if part.type == 'text' %}{{- part.text }}{%- elif part.type == 'image' %}{{- '<image>' }}{%- endif %}"
    "{%- endfor %}{{- '<end_of_utterance>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'Assistant:' }}{%- endif %}"
)


def sizes(words: Any) -> dict[str, Any]:
    """What the configuration of such a model says, over a tokenizer."""
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 7,
    }
    return {
        "vision_config": vision,
        "text_config": {"model_type": "llama", **language(words, bos_token_id=words.bos_token_id)},
        "image_token_id": words.convert_tokens_to_ids("<image>"),
        "pad_token_id": words.pad_token_id,
        "scale_factor": 2,
        "tie_word_embeddings": False,
    }


def write(folder: Path) -> Any:
    """Writes a checkpoint; the model."""
    from transformers import (
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    words = tokenizer(
        SPECIAL,
        template=TEMPLATE,
        eos="<end_of_utterance>",
        pad="<|im_end|>",
        bos_token="<|im_start|>",
        extra_special_tokens={
            "fake_image_token": "<fake_token_around_image>",
            "image_token": "<image>",
            "end_of_utterance_token": "<end_of_utterance>",
            "global_image_token": "<global-img>",
        },
    )
    config = SmolVLMConfig(**sizes(words))
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(
            size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=True
        ),
        tokenizer=words,
        video_processor=SmolVLMVideoProcessor(size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}),
        image_seq_len=4,
        chat_template=TEMPLATE,
    )
    model = scattered(SmolVLMForConditionalGeneration(config))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model
