"""Quantised Qwen2 checkpoints in the published layouts, each with the model that its stored weights stand for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from tests.tiny import qwen2

GROUP = 32
"""Input weights that share a scale."""
NIBBLES = 8
"""4-bit weights in one stored integer."""
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight weights stands in which place, as AWQ's kernels want them."""

Stored = Mapping[str, torch.Tensor]


def packed(values: torch.Tensor, order: tuple[int, ...] = tuple(range(NIBBLES))) -> torch.Tensor:
    """Numbers from 0 to 15, eight in an int32 along the last dimension."""
    eights = values.to(torch.int64).reshape(*values.shape[:-1], -1, NIBBLES)
    whole = sum(eights[..., place] << (4 * shift) for shift, place in enumerate(order))
    return torch.as_tensor(whole).to(torch.int32).contiguous()


def _in_groups(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of (out, in) as numbers from -8 to 7, and the scale of each group, (out, groups)."""
    groups = weight.reshape(len(weight), -1, GROUP)
    scale = (groups.abs().amax(dim=-1, keepdim=True) / 7).half().float()
    return (groups / scale).round().clamp(-8, 7).reshape(weight.shape), scale.squeeze(-1)


def _back(numbers: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (numbers.reshape(len(numbers), -1, GROUP) * scale.unsqueeze(-1)).reshape(numbers.shape)


def awq(weight: torch.Tensor) -> tuple[Stored, torch.Tensor]:
    numbers, scale = _in_groups(weight)
    zeros = torch.full((scale.shape[1], scale.shape[0]), 8)
    stored = {
        "qweight": packed((numbers + 8).t(), AWQ_ORDER),
        "qzeros": packed(zeros, AWQ_ORDER),
        "scales": scale.t().half().contiguous(),
    }
    return stored, _back(numbers, scale)


def gptq(weight: torch.Tensor) -> tuple[Stored, torch.Tensor]:
    numbers, scale = _in_groups(weight)
    stored = {
        "qweight": packed(numbers + 8).t().contiguous(),
        "qzeros": packed(torch.full((scale.shape[1], scale.shape[0]), 7)),
        "scales": scale.t().half().contiguous(),
        "g_idx": torch.arange(weight.shape[1], dtype=torch.int32) // GROUP,
    }
    return stored, _back(numbers, scale)


def int4(weight: torch.Tensor) -> tuple[Stored, torch.Tensor]:
    numbers, scale = _in_groups(weight)
    stored = {
        "weight_packed": packed(numbers + 8),
        "weight_scale": scale.half(),
        "weight_shape": torch.tensor(weight.shape),
    }
    return stored, _back(numbers, scale)


def int8(weight: torch.Tensor) -> tuple[Stored, torch.Tensor]:
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    numbers = (weight / scale).round()
    return {"weight": numbers.to(torch.int8), "weight_scale": scale}, numbers * scale


def fp8(weight: torch.Tensor) -> tuple[Stored, torch.Tensor]:
    scale = weight.abs().max() / 448
    numbers = (weight / scale).to(torch.float8_e4m3fn)
    return {"weight": numbers, "weight_scale": scale}, numbers.float() * scale


def _compressed(layout: str, bits: int, *, activations: bool) -> dict[str, Any]:
    grouped = {"strategy": "group", "group_size": GROUP} if bits == 4 else {"strategy": "channel"}
    weights = {"num_bits": bits, "type": "int", "symmetric": True, "dynamic": False, **grouped}
    inputs = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": True, "strategy": "token"}
    scheme = {"targets": ["Linear"], "weights": weights, "input_activations": inputs if activations else None}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "config_groups": {"group_0": scheme},
        "ignore": ["lm_head"],
    }


Store = Callable[[torch.Tensor], tuple[Stored, torch.Tensor]]
LAYOUTS: Mapping[str, tuple[Store, dict[str, Any]]] = MappingProxyType(
    {
        "awq": (
            awq,
            {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"},
        ),
        "gptq": (
            gptq,
            {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True, "lm_head": False},
        ),
        "compressed-tensors, 4 bits": (int4, _compressed("pack-quantized", 4, activations=False)),
        "compressed-tensors, 8 bits": (int8, _compressed("int-quantized", 8, activations=True)),
        "fp8": (fp8, {"quant_method": "fp8", "activation_scheme": "dynamic"}),
    }
)
"""How each stores a linear layer's weights, and what its config.json says."""


def write(folder: Path, layout: str, dtype: str = "float16") -> Any:
    """Writes a checkpoint; the model with the weights that are stored there, in float32."""
    from safetensors.torch import load_file, save_file

    store, config = LAYOUTS[layout]
    model = qwen2.write(folder)
    weights: dict[str, torch.Tensor] = {}
    kept = load_file(folder / "model.safetensors")
    back: dict[str, torch.Tensor] = {}
    for name, weight in kept.items():
        if name.endswith("_proj.weight"):
            stored, back[name] = store(weight)
            weights |= {f"{name.removesuffix('weight')}{part}": tensor for part, tensor in stored.items()}
        else:
            weights[name] = weight.to(getattr(torch, dtype))
            back[name] = weights[name].float()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    model.load_state_dict(back)
    own = json.loads((folder / "config.json").read_text("utf-8"))
    own |= {"dtype": dtype, "quantization_config": config}
    (folder / "config.json").write_text(json.dumps(own), encoding="utf-8")
    return model
