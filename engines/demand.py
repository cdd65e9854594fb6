"""What an engine takes of the memory, as the files of its checkpoint tell: weights, and the KV cache of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cos.engines.adapter import find_adapter
from cos.engines.architectures import register_configs
from cos.engines.checkpoint import CONTEXTS, TEXTS, config_of, folder_of
from cos.engines.environment import fitting_dtype
from cos.engines.quantization import quantization_of
from cos.engines.settings import EngineSettings, Role
from cos.engines.weights import Tensor, hub_tensors, tensors_of, weights_bytes
from cos.search.errors import InputError

NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""What is loaded in the number format of the computation. Any other number is loaded as it is stored."""
ONLINE_BYTES: Mapping[str, float] = {"fp8": 1, "int8": 1, "experts_int8": 1, "mxfp8": 1, "nvfp4": 0.5, "mxfp4": 0.5}
"""Bytes of a weight that vLLM quantises while it loads, by how the name of the method begins."""
NOT_LINEAR = ("embed", "lm_head", "norm")
"""In the names of tensors that are left as they are then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one engine wants of each of its GPUs."""

    role: Role
    weights_bytes: int | None
    """None where it cannot be told."""
    token_bytes: int | None = None
    """KV cache of one more token of a long prompt; None where it cannot be told."""
    context_bytes: int | None = None
    """KV cache of one prompt and chain as long as its context allows. vLLM starts with no less."""
    context_tokens: int | None = None
    given_cache_bytes: int | None = None
    """Size of the KV cache, where the user gave one."""
    gpus: tuple[int, ...] = (0,)
    utilization: float | None = None
    """The share of the memory, where the user gave one."""
    total_utilization: float = 0.9
    """See `EngineSettings.total_memory_utilization`."""


def demand_of(settings: EngineSettings, *, on_cpu: bool = False) -> Demand:
    """Reads the config and the headers of the weights; no weights. It blocks, and may ask the hub. On CPU all of an
    engine is in one memory. Errors: InputError for an adapter that is none."""
    over = 1 if on_cpu else settings.tensor_parallel_size
    try:
        config = config_of(settings.model, trust_remote_code=settings.trust_remote_code)
    except (ValueError, OSError):
        # Where it cannot be read the engine says so, or the check of the files has.
        config = {}
    number = NUMBER_BYTES[_computed(settings, config, on_cpu=on_cpu)]
    weights = loaded_bytes(settings, config, on_cpu=on_cpu)
    if weights is not None and settings.adapter is not None:
        weights += find_adapter(settings.adapter).parameters * number
    text = _text(settings) or {}
    cache = token_cache(text, number, over)
    tokens = settings.max_model_len or next((text[name] for name in CONTEXTS if text.get(name)), None)
    return Demand(
        role=settings.role,
        weights_bytes=None if weights is None else weights // over,
        token_bytes=None if cache is None else cache.long_bytes or cache.short_bytes,
        context_bytes=None if cache is None or tokens is None else cache.of(tokens),
        context_tokens=tokens,
        given_cache_bytes=settings.kv_cache_mib and settings.kv_cache_mib * 2**20,
        gpus=settings.gpus,
        utilization=settings.memory_utilization,
        total_utilization=settings.total_memory_utilization,
    )


def loaded_bytes(settings: EngineSettings, config: Mapping[str, Any], *, on_cpu: bool) -> int | None:
    """How large the weights are once they are loaded; None where that cannot be told."""
    try:
        folder = folder_of(settings.model)
    except OSError:
        return None
    tensors = tensors_of(folder)
    is_local = Path(settings.model).expanduser().is_dir()
    if not tensors and is_local:
        try:
            return weights_bytes(folder, settings.role)
        except InputError:
            return None  # what is missing, the check of the files says
    dtype = _computed(settings, config, on_cpu=on_cpu)
    online = None if quantization_of(config) else settings.quantization
    return size_of(tensors or hub_tensors(settings.model), NUMBER_BYTES[dtype], online) or None


def size_of(tensors: Sequence[Tensor], number_bytes: int, online: str | None = None) -> int:
    """The same, of tensors. ``number_bytes``: of a number that is computed with. ``online``: how weights are quantised
    while they are loaded."""
    small = next((size for name, size in ONLINE_BYTES.items() if (online or "").startswith(name)), None)
    whole = 0.0
    for tensor in tensors:
        if tensor.dtype not in FLOATS:
            whole += tensor.stored_bytes
        elif small is not None and len(tensor.shape) > 1 and not any(name in tensor.name for name in NOT_LINEAR):
            whole += tensor.stored_bytes / FLOATS[tensor.dtype] * small
        else:
            whole += tensor.stored_bytes / FLOATS[tensor.dtype] * number_bytes
    return int(whole)


@dataclass(frozen=True, slots=True)
class TokenCache:
    """The KV cache of a token on one GPU."""

    long_bytes: int
    """In layers that look at the whole prompt."""
    short_bytes: int
    """In layers that look at a window of it."""
    window_tokens: int = 0

    def of(self, tokens: int) -> int:
        """That of a prompt."""
        return self.long_bytes * tokens + self.short_bytes * min(tokens, self.window_tokens)


def token_cache(text: Mapping[str, Any], number_bytes: int, over: int = 1) -> TokenCache | None:
    """By the config of a language model. ``number_bytes``: of a number in the cache. ``over``: how many GPUs the heads
    are spread over. None where the config does not say. Layers with a state of one size (Mamba, linear attention) are
    left out."""
    layers, heads = text.get("num_hidden_layers"), text.get("num_attention_heads")
    if not layers or not heads:
        return None
    if text.get("kv_lora_rank"):
        # Multi-head latent attention: one vector a layer, which every GPU has.
        numbers = text["kv_lora_rank"] + (text.get("qk_rope_head_dim") or 0)
    else:
        width = text.get("head_dim") or (text.get("hidden_size") or 0) // heads
        numbers = 2 * max(1, (text.get("num_key_value_heads") or heads) // over) * width
    kinds: Sequence[str] = text.get("layer_types") or ()
    window = text.get("sliding_window") or 0
    if kinds:
        long, short = (sum(kind == name for kind in kinds) for name in ("full_attention", "sliding_attention"))
    else:
        is_short = bool(window) and text.get("use_sliding_window") is not False
        long, short = (0, layers) if is_short else (layers, 0)
    return TokenCache(long * numbers * number_bytes, short * numbers * number_bytes, window)


def _text(settings: EngineSettings) -> Mapping[str, Any] | None:
    """The config of the language model, with the defaults of its class; None where it has no class."""
    from transformers import AutoConfig

    register_configs()
    folder = Path(settings.model).expanduser()
    try:
        config: Any = AutoConfig.from_pretrained(
            str(folder) if folder.is_dir() else settings.model, trust_remote_code=settings.trust_remote_code
        )
    except Exception:
        # Configs come with code of many kinds, and fail in as many ways. The engine tells how.
        return None
    text = next((own for name in TEXTS if (own := getattr(config, name, None)) is not None), config)
    return text.to_dict() if hasattr(text, "to_dict") else text


def _computed(settings: EngineSettings, config: Mapping[str, Any], *, on_cpu: bool) -> str:
    """The number format of the computation. vLLM's ``auto`` is the checkpoint's own, but half of float32."""
    # What is quantised is never computed in float32 for speed alone.
    dtype = settings.dtype if quantization_of(config) else fitting_dtype(settings, on_cpu=on_cpu)
    return dtype if dtype in NUMBER_BYTES else "bfloat16"
