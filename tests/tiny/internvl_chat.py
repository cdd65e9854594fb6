"""InternVLChatModel as it is published (InternVL2.5 and 3, CoS): its config.json, its names of weights, a tokenizer of
Qwen2.5's family with InternVL's tokens, and a chat template that takes text alone. It has no processor: what its
preprocessor_config.json says is not what is done with pictures.

The weights are those of an InternVLForConditionalGeneration, which is what transformers computes it by.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.tiny import internlm2
from tests.tiny.parts import CHAT_ML_TEXT, CONTEXT_TOKENS, WIDTH, language, scattered, tokenizer

SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"),
)
PATCH = 14


def write(
    folder: Path,
    *,
    side: int = 56,
    architecture: str = "InternVLChatModel",
    context_tokens: int = CONTEXT_TOKENS,
    added: tuple[str, ...] = (),
    on_internlm2: bool = False,
) -> Any:
    """Writes a checkpoint whose tiles have ``side`` pixels, and whose tokenizer has ``added`` tokens; the same model as
    transformers runs it. Its language model is Qwen2's, or InternLM2's."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    words = (
        internlm2.write_tokenizer(folder, added=added)
        if on_internlm2
        else tokenizer((*SPECIAL, *added), template=CHAT_ML_TEXT, eos="<|im_end|>", pad="<|endoftext|>")
    )
    vision = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "layer_norm_eps": 1e-6,
    }
    sizes = language(words, max_position_embeddings=context_tokens)
    text = {"model_type": "llama" if on_internlm2 else "qwen2", **sizes}
    model: Any = InternVLForConditionalGeneration(
        InternVLConfig(
            vision_config={
                **vision,
                "image_size": [side, side],
                "patch_size": [PATCH, PATCH],
                "norm_type": "layer_norm",
                "attention_bias": True,
                "use_qk_norm": False,
                "use_absolute_position_embeddings": True,
            },
            text_config=text,
            image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
            image_seq_length=(side // PATCH) ** 2 // 4,
            downsample_ratio=0.5,
            tie_word_embeddings=False,
        )
    )
    scattered(model)
    if not on_internlm2:
        words.save_pretrained(folder)
    weights = published_weights(model.state_dict())
    if on_internlm2:
        weights = internlm2.published_weights(weights, sizes["num_attention_heads"], sizes["num_key_value_heads"])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    qwen2 = {"architectures": ["Qwen2ForCausalLM"], "torch_dtype": "float32", **text}
    config = {
        "architectures": [architecture],
        "auto_map": {
            "AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
            "AutoModel": f"modeling_internvl_chat.{architecture}",
            "AutoModelForCausalLM": f"modeling_internvl_chat.{architecture}",
        },
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": side,
        "llm_config": internlm2.described(sizes) if on_internlm2 else qwen2,
        "max_dynamic_patch": 12,
        "min_dynamic_patch": 1,
        "model_type": "internvl_chat",
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "vision_config": {
            **vision,
            "architectures": ["InternVisionModel"],
            "hidden_act": "gelu",
            "image_size": side,
            "model_type": "intern_vit_6b",
            "norm_type": "layer_norm",
            "num_channels": 3,
            "patch_size": PATCH,
            "qk_normalization": False,
            "qkv_bias": True,
            "use_flash_attn": True,
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    looks = {
        "crop_size": side,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "size": side,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(looks))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": words.eos_token_id}))
    return model


RENAMED = (
    ("model.vision_tower.embeddings.cls_token", "vision_model.embeddings.class_embedding"),
    ("model.vision_tower.embeddings.position_embeddings", "vision_model.embeddings.position_embedding"),
    ("model.vision_tower.embeddings.patch_embeddings.projection.", "vision_model.embeddings.patch_embedding."),
    ("model.vision_tower.encoder.layer.", "vision_model.encoder.layers."),
    (".attention.projection_layer.", ".attn.proj."),
    (".layernorm_before.", ".norm1."),
    (".layernorm_after.", ".norm2."),
    (".lambda_1", ".ls1"),
    (".lambda_2", ".ls2"),
    ("model.multi_modal_projector.layer_norm.", "mlp1.0."),
    ("model.multi_modal_projector.linear_1.", "mlp1.1."),
    ("model.multi_modal_projector.linear_2.", "mlp1.3."),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)


def published_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of an InternVLForConditionalGeneration by the names of the published layout."""
    found: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        if ".attention.k_proj." in name or ".attention.v_proj." in name:
            continue
        renamed, value = name, weight
        if ".attention.q_proj." in name:
            value = torch.cat([weights[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            renamed = name.replace(".attention.q_proj.", ".attn.qkv.")
        for own, published in RENAMED:
            if renamed.startswith(own) or (own.startswith(".") and own in renamed):
                renamed = renamed.replace(own, published)
        found[renamed] = value.contiguous().clone()
    return found
