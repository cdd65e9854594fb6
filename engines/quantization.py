"""How a checkpoint's weights are quantised, as its config.json says, and which of that vLLM 0.32 does not run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cos.engines.checkpoint import TEXTS, config_of, folder_of
from cos.engines.environment import has_bfloat16_tiles
from cos.engines.settings import EngineSettings
from cos.engines.weights import tensors_of
from cos.search.errors import InputError

LOADED = frozenset(
    {
        "awq",
        "compressed-tensors",
        "deepseek_v4_fp8",
        "experts_int8",
        "fp8",
        "gpt_oss_mxfp4",
        "gptq",
        "humming",
        "inc",
        "auto-round",
        "modelopt",
        "modelopt_fp4",
        "modelopt_mixed",
        "modelopt_mxfp8",
        "mxfp4",
        "mxfp8",
        "quark",
        "torchao",
    }
)
"""What vLLM 0.32 loads of itself, as checkpoints name it (``QUANTIZATION_METHODS`` of its quantization package)."""
ON_CPU = (
    "AWQ, GPTQ or compressed-tensors with weights of 4 bits, or compressed-tensors with weights and inputs of 8 bits"
)
"""What its build for CPU runs of it, as far as a user has a choice."""
BLOCK = 128
"""Input weights in a block of FP8 numbers that the build for CPU computes with."""
FOUR_BITS, EIGHT_BITS = ("float16", "bfloat16"), ("bfloat16",)
"""The number formats that its kernels for such weights know. In any other the engine dies at its first request."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """How weights are quantised."""

    method: str
    """As config.json names it; empty where vLLM is to find out."""
    dtypes: tuple[str, ...] = ()
    """What can be computed in on CPU; empty where that is not known."""

    def fitting_dtype(self, settings: EngineSettings) -> str:
        """The number format on CPU. With bfloat16, vLLM rounds the inputs of weights of 4 bits to 8 bits: it is fast,
        and too coarse for a PRM, whose scores would be off by several hundredths."""
        if settings.dtype != "auto" or (settings.role == "policy" and len(self.dtypes) > 1):
            return settings.dtype
        return next(iter(self.dtypes), settings.dtype)


def quantization_of(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a config.json says of how the weights are quantised; None of those that are not."""
    places = [config, *(config[name] for name in TEXTS if isinstance(config.get(name), Mapping))]
    told = (place.get("quantization_config") or place.get("compression_config") for place in places)
    return next((own for own in told if own), None)


def is_in_blocks(told: Mapping[str, Any]) -> bool:
    """Whether weights of FP8 have a scale for each block."""
    groups: Mapping[str, Any] = told.get("config_groups") or {}
    ways = [(group.get("weights") or {}).get("strategy") for group in groups.values()]
    return bool(told.get("weight_block_size")) or "block" in ways


def _has_bias(model: str) -> bool:
    """Whether a layer whose weights have scales has a bias, as far as its files are on this machine."""
    try:
        names = {tensor.name for tensor in tensors_of(folder_of(model))}
    except OSError:
        return False
    scaled = {name.rpartition(".")[0] for name in names if name.endswith((".weight_scale_inv", ".weight_scale"))}
    return any(f"{layer}.bias" in names for layer in scaled)


def check_quantization(settings: EngineSettings, *, on_cpu: bool) -> Quantization | None:
    """How the weights are quantised; None where they are not. Errors: InputError for what vLLM does not run."""
    try:
        told = quantization_of(config_of(settings.model, trust_remote_code=settings.trust_remote_code))
    except (ValueError, OSError):
        return None  # it cannot be read, and the engine tells why
    if told is None:
        _check_online(settings, on_cpu=on_cpu)
        return None
    method = str(told.get("quant_method", "")).lower().replace("compressed_tensors", "compressed-tensors")
    where = f"--{settings.role} {settings.model}: its weights are quantised by"
    if method and method not in LOADED and not _is_plugged_in(method):
        raise InputError(
            f"{where} {method}, which vLLM 0.32 does not load; give a checkpoint that is quantised as AWQ, GPTQ, FP8 "
            "or compressed-tensors, or one that is not",
            settings.role,
        )
    if method == "gptq" and told.get("desc_act") and told.get("group_size") != -1:
        raise InputError(
            f"{where} gptq with desc_act, whose order of weights vLLM 0.32 no longer reads; give a checkpoint with "
            "desc_act false",
            settings.role,
        )
    if not on_cpu:
        return Quantization(method)
    found = _on_cpu(method, told)
    if is_in_blocks(told) and not isinstance(found, str) and _has_bias(settings.model):
        # Its kernel takes a bias in float32 alone, and is given none: the engine would die at its first request.
        found = f"{method} in blocks, some of layers with a bias"
    if isinstance(found, str):
        raise InputError(
            f"{where} {found}, which vLLM's build for CPU does not run; give a checkpoint that it runs ({ON_CPU}), one "
            "that is not quantised, or a GPU",
            settings.role,
        )
    if found.dtypes and settings.dtype not in ("auto", *found.dtypes):
        raise InputError(
            f"--{settings.role}-dtype {settings.dtype}: with weights that are quantised by {method}, vLLM's build for "
            f"CPU computes in {' or '.join(found.dtypes)}; leave the dtype out",
            f"{settings.role}_dtype",
        )
    return found


def _check_online(settings: EngineSettings, *, on_cpu: bool) -> None:
    """Errors: InputError for weights that cannot be quantised while they are loaded."""
    if on_cpu and settings.quantization in ("fp8", "fp8_per_tensor", "fp8_per_block"):
        raise InputError(
            f"--{settings.role}-quantization {settings.quantization}: vLLM's build for CPU does not quantise weights "
            f"so; leave it out, or give a checkpoint that is quantised already ({ON_CPU})",
            f"{settings.role}_quantization",
        )


def _is_plugged_in(method: str) -> bool:
    """Whether a plug-in has taught vLLM more. It is asked last: vLLM takes seconds to import."""
    from cos.engines.vllm_plugin import knows_quantization

    return knows_quantization(method)


def _on_cpu(method: str, told: Mapping[str, Any]) -> Quantization | str:
    """How the build for CPU runs it, or what of it that does not run."""
    bits = told.get("bits") or told.get("w_bit")
    if method in ("awq", "gptq"):
        if bits != 4:
            return f"{method} with {bits} bits"
        if method == "gptq" and not told.get("sym", True):
            return "gptq with zero points (sym false)"
        return Quantization(method, FOUR_BITS)
    if method == "fp8":
        rows_and_columns = told.get("weight_block_size")
        if not rows_and_columns or rows_and_columns[1] != BLOCK:
            return f"fp8 without blocks of {BLOCK}"
        return Quantization(method, EIGHT_BITS) if has_bfloat16_tiles() else "fp8, on a CPU without AMX"
    if method == "compressed-tensors":
        groups: Mapping[str, Any] = told.get("config_groups") or {}
        found = [_group_on_cpu(group) for group in groups.values()]
        wrong = next((why for why in found if isinstance(why, str)), None)
        dtypes = min((dtypes for dtypes in found if not isinstance(dtypes, str)), key=len, default=())
        return Quantization(method, dtypes) if wrong is None else wrong
    # The first chooses its kernels by layer, and has some for CPU. The others have none.
    return Quantization(method) if method in ("auto-round", "inc", "") or method not in LOADED else method


def _group_on_cpu(group: Mapping[str, Any]) -> tuple[str, ...] | str:
    """The same, of some layers in compressed-tensors: what can be computed in."""
    weights: Mapping[str, Any] = group.get("weights") or {}
    inputs: Mapping[str, Any] | None = group.get("input_activations")
    kind, bits, by = weights.get("type", "int"), weights.get("num_bits"), weights.get("strategy")
    of_inputs = None if inputs is None else inputs.get("num_bits")
    if (kind, bits, of_inputs) == ("int", 4, None):
        return FOUR_BITS
    if (kind, bits, of_inputs) == ("int", 8, 8):
        return EIGHT_BITS
    is_float8 = (kind, bits, of_inputs) == ("float", 8, 8) and inputs is not None and inputs.get("dynamic")
    if is_float8 and (by == "channel" or (by == "block" and has_bfloat16_tiles())):
        return EIGHT_BITS
    computed = "" if inputs is None else f" and inputs of {of_inputs} bits"
    return f"compressed-tensors with {kind} weights of {bits} bits{f' by {by}' if by else ''}{computed}"
