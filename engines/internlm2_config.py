"""The configuration of InternLM2, which transformers has no class for: that of internlm2_5-* and of the language models
in InternVL2_5-2B, -8B and -26B and in VisualPRM-8B. Its keys are Llama's."""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig


class InternLM2Config(LlamaConfig):
    """config.json of the published checkpoints as it is, but for the scaling of positions beyond the trained length.

    The scaling of kind "dynamic" changes nothing up to ``max_position_embeddings``. vLLM has no positions beyond them,
    and yet takes a context that is longer by the scaling's factor: without it the context ends where the positions do.
    """

    model_type = "internlm2"

    def __post_init__(self, **keys: Any) -> None:
        scaling = keys.get("rope_scaling") or {}
        if "dynamic" in (scaling.get("type"), scaling.get("rope_type")):
            del keys["rope_scaling"]
        super().__post_init__(**keys)
