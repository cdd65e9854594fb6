"""Checkpoints that transformers or vLLM would not take for what they are, and what to tell them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cos.engines.heads import HEADED

RUN_AS: Mapping[str, str] = MappingProxyType(
    {
        # VisualPRM's name for InternVL. Its weights are an InternVLChatModel's, and it answers in words; vLLM takes a
        # name that ends so for that of a model with a head in place of words.
        "InternVLRewardModel": "InternVLChatModel",
    }
)
"""Architectures that vLLM must be told to run as others."""


def names_a_prm(architecture: str) -> bool:
    """Whether checkpoints of an architecture score, and write no answers: those with a head, and those whose authors
    call them reward models."""
    return architecture in RUN_AS or architecture.endswith(HEADED)


def engine_overrides(model: str, *, trust_remote_code: bool) -> dict[str, Any]:
    """Further arguments of vLLM's for a checkpoint whose ``architectures`` it would take wrongly; else none. ``model``:
    a folder or a hub name."""
    from transformers import PretrainedConfig

    try:
        config, _ = PretrainedConfig.get_config_dict(model, trust_remote_code=trust_remote_code)
    except (ValueError, OSError):
        # vLLM finds the same, and tells it.
        return {}
    named: list[str] = config.get("architectures") or []
    if not any(name in RUN_AS for name in named):
        return {}
    return {"hf_overrides": {"architectures": [RUN_AS.get(name, name) for name in named]}, "runner": "generate"}


def register_configs() -> None:
    """Has transformers know the configuration of architectures that it has no class for: their checkpoints bring code
    for it along, which then need not be run. Its engine processes are forked from this one, and know it, too."""
    from transformers import AutoConfig

    from cos.engines.internlm2_config import InternLM2Config
    from cos.engines.internvl_config import InternVLChatConfig

    for config in (InternLM2Config, InternVLChatConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
