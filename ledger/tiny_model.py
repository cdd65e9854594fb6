"""Builds an untrained InternVL (HF-native, the paper's family) with its tokenizer and processor, in a given size."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedTokenizerFast,
)

from cos.ledger.chains import chain_text, prompt_text
from cos.ledger.task import derive, sample_problem
from cos.search.grammars.cos import COS_TOKENS

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
IMAGE_TOKENS = 16
"""Image tokens of a ledger: one for each cell."""

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}"
    "{% if c.type in ('image', 'image_url') %}<IMG_CONTEXT>\n{% else %}{{ c.text }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of a special token. Errors: ValueError when it is not one token."""
    found = tokenizer.get_vocab().get(token)
    if found is None:
        raise ValueError(f"the tokenizer has no token {token!r}")
    return found


@dataclass(frozen=True)
class Size:
    """The size of a checkpoint. Attention heads are 64 wide (the engine's CPU attention refuses odd widths)."""

    image_side: int
    """Pixels; the image is resized to a square of this side. Always 8 x 8 patches."""
    vision_width: int
    vision_layers: int
    text_width: int
    text_layers: int
    text_mlp: int


POLICY = Size(image_side=24, vision_width=128, vision_layers=4, text_width=256, text_layers=5, text_mlp=768)
READER = replace(POLICY, image_side=112, vision_width=192, vision_layers=6)
"""What the PRM begins as: the policy's text model behind a larger tower that sees every pixel."""

SIZES = {"policy": POLICY, "prm": READER}


def _corpus(seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(2000):
        problem = sample_problem(rng)
        yield prompt_text(problem.question, IMAGE_TOKENS)
        yield chain_text(derive(problem), tagged=False)


def build_tokenizer(seed: int = 0) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the task's text: single digits, every CoS and chat token one special id."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480 + len(CONTROL_TOKENS) + len(COS_TOKENS),
        special_tokens=[*CONTROL_TOKENS, *COS_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[*CONTROL_TOKENS[1:], *COS_TOKENS],
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def build_model(size: Size, tokenizer: PreTrainedTokenizerFast, seed: int) -> InternVLForConditionalGeneration:
    """An InternVL with random weights."""
    torch.manual_seed(seed)
    ids = {
        token: token_id(tokenizer, token) for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<IMG_CONTEXT>")
    }
    patch = size.image_side // 8
    config = InternVLConfig(
        vision_config={
            "hidden_size": size.vision_width,
            "num_hidden_layers": size.vision_layers,
            "num_attention_heads": size.vision_width // 64,
            "intermediate_size": 4 * size.vision_width,
            "image_size": [size.image_side, size.image_side],
            "patch_size": [patch, patch],
            "use_absolute_position_embeddings": True,
            "use_qk_norm": False,
            "norm_type": "layer_norm",
            "num_channels": 3,
        },
        text_config={
            "model_type": "qwen2",
            "hidden_size": size.text_width,
            "intermediate_size": size.text_mlp,
            "num_hidden_layers": size.text_layers,
            "num_attention_heads": size.text_width // 64,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 1024,
            "tie_word_embeddings": True,
            "rope_theta": 10000.0,
            "bos_token_id": ids["<|im_start|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        image_token_id=ids["<IMG_CONTEXT>"],
        image_seq_length=IMAGE_TOKENS,
        downsample_ratio=0.5,
        tie_word_embeddings=True,
    )
    model = InternVLForConditionalGeneration(config)
    with torch.no_grad():
        # transformers starts the positions at zero: patches look alike, and the tower takes long to tell them apart.
        model.model.vision_tower.embeddings.position_embeddings.normal_(std=0.02)
        for layer in (model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2):
            torch.nn.init.xavier_uniform_(layer.weight)
    return model


def build_processor(size: Size, tokenizer: PreTrainedTokenizerFast) -> InternVLProcessor:
    """The processor of a checkpoint of this size."""
    square = {"height": size.image_side, "width": size.image_side}
    return InternVLProcessor(
        # InternVLProcessor turns tiling on whatever the image processor says: one tile at most is how to have none.
        image_processor=GotOcr2ImageProcessor(size=square, min_patches=1, max_patches=1),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=square),
        image_seq_length=IMAGE_TOKENS,
        chat_template=CHAT_TEMPLATE,
    )
