"""Which quantised checkpoints are refused, by their config.json alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from cos.engines import quantization
from cos.engines.quantization import LOADED, check_quantization
from cos.engines.settings import EngineSettings, Role
from cos.search.errors import InputError
from tests.server.checkpoints import safetensors
from tests.tiny.quantized import LAYOUTS


def checked(folder: Path, told: dict[str, Any] | None, *, on_cpu: bool, inside: str | None = None, **given: Any) -> Any:
    """``told``: of how the weights are quantised. ``inside``: the part of the config that says so."""
    said = {} if told is None else {"quantization_config": told}
    config = said if inside is None else {inside: said}
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", **config}), encoding="utf-8")
    return check_quantization(EngineSettings(role="prm", model=str(folder), **given), on_cpu=on_cpu)


def compressed(weights: dict[str, Any], inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    group = {"weights": weights, "input_activations": inputs}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
FLOAT8 = {"num_bits": 8, "type": "float", "dynamic": True}
BLOCKS = compressed({**FLOAT8, "strategy": "block"}, FLOAT8)
NVFP4 = compressed({"num_bits": 4, "type": "float"}, {"num_bits": 4, "type": "float"})
TOLD: dict[str, tuple[dict[str, Any] | None, str | None, str | None]] = {
    "none": (None, None, None),
    "awq": (AWQ, None, None),
    "awq of old": ({"quant_method": "awq", "w_bit": 4, "q_group_size": 128}, None, None),
    "gptq": (GPTQ, None, None),
    "gptq, one group": ({**GPTQ, "desc_act": True, "group_size": -1}, None, None),
    "gptq, desc_act": ({**GPTQ, "desc_act": True}, "gptq with desc_act", "gptq with desc_act"),
    "gptq, 8 bits": ({**GPTQ, "bits": 8}, None, "gptq with 8 bits"),
    "gptq, zero points": ({**GPTQ, "sym": False}, None, "gptq with zero points"),
    "4 bits": (compressed({"num_bits": 4, "type": "int"}), None, None),
    "8 bits": (compressed({"num_bits": 8, "type": "int"}, {"num_bits": 8, "type": "int"}), None, None),
    "8 bits of weights": (compressed({"num_bits": 8, "type": "int"}), None, "int weights of 8 bits"),
    "nvfp4": (NVFP4, None, "float weights of 4 bits and inputs of 4 bits"),
    "fp8, blocks": (FP8, None, None),
    "fp8, other blocks": ({**FP8, "weight_block_size": [1, 32]}, None, "fp8 without blocks of 128"),
    "fp8, one scale": ({"quant_method": "fp8"}, None, "fp8 without blocks of 128"),
    "float8 by channel": (compressed({**FLOAT8, "strategy": "channel"}, FLOAT8), None, None),
    "float8 by block": (compressed({**FLOAT8, "strategy": "block"}, FLOAT8), None, None),
    "float8 by tensor": (
        compressed({**FLOAT8, "strategy": "tensor"}, FLOAT8),
        None,
        "float weights of 8 bits by tensor",
    ),
    "float8 of weights": (compressed({**FLOAT8, "strategy": "channel"}), None, "float weights of 8 bits by channel"),
    "modelopt": ({"quant_method": "modelopt"}, None, "modelopt"),
    "left to vLLM": ({"producer": {"name": "modelopt"}}, None, None),
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", "bitsandbytes"),
    "gguf": ({"quant_method": "gguf"}, "gguf", "gguf"),
}
"""What config.json says, and what is refused on GPU and on CPU."""


@pytest.mark.parametrize("on_cpu", [False, True], ids=["gpu", "cpu"])
@pytest.mark.parametrize("name", TOLD)
def test_what_vllm_does_not_run_is_refused_by_name(
    name: str, on_cpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "has_bfloat16_tiles", lambda: True)
    told, on_gpu, on_a_cpu = TOLD[name]
    why = on_a_cpu if on_cpu else on_gpu
    if why is None:
        found = checked(tmp_path, told, on_cpu=on_cpu)
        assert (found is None) is (told is None)
        return
    with pytest.raises(
        InputError, match=f"--prm {tmp_path}: its weights are quantised by .*; give a checkpoint"
    ) as error:
        checked(tmp_path, told, on_cpu=on_cpu)
    assert why in str(error.value)


def test_the_language_model_of_a_vision_language_model_may_be_the_one_that_is_quantised(tmp_path: Path) -> None:
    assert checked(tmp_path, AWQ, on_cpu=True, inside="text_config").method == "awq"


@pytest.mark.parametrize("told", [FP8, BLOCKS], ids=["fp8", "compressed"])
def test_blocks_of_float8_need_amx(told: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "has_bfloat16_tiles", lambda: False)
    with pytest.raises(InputError, match="build for CPU does not run"):
        checked(tmp_path, told, on_cpu=True)
    assert checked(tmp_path, told, on_cpu=False) is not None


@pytest.mark.parametrize(("told", "scale"), [(FP8, "weight_scale_inv"), (BLOCKS, "weight_scale")])
def test_blocks_of_float8_of_a_layer_with_a_bias_are_refused_on_cpu(
    told: dict[str, Any], scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "has_bfloat16_tiles", lambda: True)
    (tmp_path / "a.safetensors").write_bytes(safetensors(8, f"q_proj.{scale}"))
    (tmp_path / "b.safetensors").write_bytes(safetensors(8, "norm.bias"))
    assert checked(tmp_path, told, on_cpu=True).dtypes == ("bfloat16",)
    (tmp_path / "c.safetensors").write_bytes(safetensors(8, "q_proj.bias"))
    with pytest.raises(InputError, match="in blocks, some of layers with a bias, which vLLM"):
        checked(tmp_path, told, on_cpu=True)
    assert checked(tmp_path, told, on_cpu=False) is not None


@pytest.mark.parametrize(
    ("told", "role", "dtype", "found"),
    [
        (AWQ, "prm", "auto", "float16"),
        (AWQ, "prm", "bfloat16", "bfloat16"),
        (AWQ, "policy", "auto", "auto"),
        (TOLD["8 bits"][0], "prm", "auto", "bfloat16"),
        (TOLD["8 bits"][0], "policy", "auto", "bfloat16"),
        ({"quant_method": "auto-round"}, "prm", "auto", "auto"),
    ],
)
def test_a_cpu_computes_in_what_its_kernels_know_and_a_prm_in_what_keeps_its_scores(
    told: dict[str, Any], role: Role, dtype: str, found: str, tmp_path: Path
) -> None:
    settings = EngineSettings(role=role, model=str(tmp_path), dtype=dtype)
    assert checked(tmp_path, told, on_cpu=True).fitting_dtype(settings) == found
    assert checked(tmp_path, told, on_cpu=False).fitting_dtype(settings) == dtype


@pytest.mark.parametrize(
    ("told", "given", "why"),
    [
        (AWQ, {"dtype": "float32"}, "--prm-dtype float32: .* in float16 or bfloat16; leave"),
        (TOLD["8 bits"][0], {"dtype": "float16"}, "--prm-dtype float16: .* in bfloat16; leave"),
        (None, {"quantization": "fp8"}, "--prm-quantization fp8: .* does not quantise weights so; leave"),
    ],
)
def test_what_would_kill_an_engine_on_cpu_is_refused(
    told: dict[str, Any] | None, given: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=why):
        checked(tmp_path, told, on_cpu=True, **given)
    checked(tmp_path, told, on_cpu=False, **given)


def test_what_vllm_loads_is_what_it_says() -> None:
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

    assert LOADED - {"auto-round"} <= {*QUANTIZATION_METHODS}
    assert {told["quant_method"] for _, told in LAYOUTS.values()} <= LOADED
