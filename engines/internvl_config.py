"""The configuration of InternVLChatModel (InternVL 2 to 3.5, CoS, VisualPRM), which transformers has no class for.

It reads config.json of the published checkpoints as it is: a vision tower under ``vision_config``, a language model of
any architecture that transformers knows under ``llm_config``, and the keys by which pictures become tiles.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig

VISION: dict[str, Any] = {
    "hidden_act": "gelu",
    "image_size": 448,
    "initializer_factor": 1.0,
    "layer_norm_eps": 1e-6,
    "norm_type": "layer_norm",
    "num_channels": 3,
    "patch_size": 14,
    "qk_normalization": False,
    "qkv_bias": True,
}
"""What a vision tower is where its config.json does not say: InternViT-300M, which most of the family have."""
TILES: dict[str, Any] = {
    "downsample_ratio": 0.5,
    "dynamic_image_size": True,
    "force_image_size": None,
    "max_dynamic_patch": 12,
    "min_dynamic_patch": 1,
    "ps_version": "v2",
    "select_layer": -1,
    "use_thumbnail": True,
}
"""How pictures become tiles and tokens, as the published preprocessing has it, where config.json does not say."""


class InternVLChatConfig(PretrainedConfig):
    """A vision tower, a language model, and how pictures become tiles."""

    model_type = "internvl_chat"
    has_no_defaults_at_init = True

    def __init__(
        self, vision_config: dict[str, Any] | None = None, llm_config: dict[str, Any] | None = None, **keys: Any
    ) -> None:
        """``keys``: all else that config.json says."""
        self.vision_config = PretrainedConfig(**{**VISION, **(vision_config or {})})
        llm = dict(llm_config or {})
        model_type = llm.pop("model_type", None)
        self.llm_config = PretrainedConfig(**llm) if model_type is None else AutoConfig.for_model(model_type, **llm)
        super().__init__(**{**TILES, **keys})
