"""What an engine takes of the memory, by the files of its checkpoint."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi

from cos.engines.demand import TokenCache, demand_of, size_of, token_cache
from cos.engines.settings import EngineSettings
from cos.engines.weights import Tensor, hub_tensors, tensors_of
from tests.server.checkpoints import safetensors

QWEN2_5_7B = {
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "hidden_size": 3584,
    "sliding_window": 32_768,
    "use_sliding_window": False,
}
GEMMA3_4B = {
    "num_hidden_layers": 34,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 1024,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5 + ["sliding_attention"] * 4,
}
MISTRAL = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
DEEPSEEK = {"num_hidden_layers": 27, "num_attention_heads": 16, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
HYBRID = {
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "head_dim": 8,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
}


@pytest.mark.parametrize(
    ("text", "over", "found"),
    [
        (QWEN2_5_7B, 1, TokenCache(57_344, 0, 32_768)),
        (QWEN2_5_7B, 2, TokenCache(28_672, 0, 32_768)),
        (QWEN2_5_7B, 8, TokenCache(14_336, 0, 32_768)),
        (GEMMA3_4B, 1, TokenCache(20_480, 118_784, 1024)),
        (MISTRAL, 1, TokenCache(131_072, 0)),
        ({**MISTRAL, "sliding_window": 4096}, 1, TokenCache(0, 131_072, 4096)),
        (DEEPSEEK, 4, TokenCache(31_104, 0)),
        (HYBRID, 1, TokenCache(64, 0)),
        ({}, 1, None),
    ],
)
def test_the_cache_of_a_token_follows_from_the_layers(
    text: dict[str, Any], over: int, found: TokenCache | None
) -> None:
    assert token_cache(text, 2, over) == found


def test_layers_that_look_at_a_window_keep_no_more_than_it() -> None:
    cache = TokenCache(20_480, 118_784, 1024)
    assert cache.of(100) == 100 * (20_480 + 118_784)
    assert cache.of(131_072) == 131_072 * 20_480 + 1024 * 118_784


def tensor(dtype: str, stored: int, name: str = "model.layers.0.mlp.up_proj.weight", ndim: int = 2) -> Tensor:
    return Tensor(name, dtype, (stored,) * ndim, stored)


@pytest.mark.parametrize(
    ("tensors", "number_bytes", "online", "found"),
    [
        ([tensor("BF16", 100)], 2, None, 100),
        ([tensor("F32", 100)], 2, None, 50),
        ([tensor("BF16", 100)], 4, None, 200),
        # 4-bit weights in whole numbers and their scales; 8-bit floats.
        ([tensor("I32", 100), tensor("F16", 10), tensor("F32", 8, ndim=1)], 2, None, 114),
        ([tensor("F8_E4M3", 100), tensor("I8", 7), tensor("F32", 4, ndim=0)], 2, None, 109),
        # Quantised while they are loaded: linear layers alone.
        ([tensor("BF16", 100), tensor("BF16", 40, "model.embed_tokens.weight")], 2, "fp8", 90),
        ([tensor("BF16", 100), tensor("BF16", 40, "lm_head.weight"), tensor("BF16", 6, ndim=1)], 2, "nvfp4", 71),
        ([tensor("BF16", 100)], 2, "moe_wna16", 100),
        ([], 2, None, 0),
    ],
)
def test_weights_are_as_large_as_what_they_are_loaded_as(
    tensors: list[Tensor], number_bytes: int, online: str | None, found: int
) -> None:
    assert size_of(tensors, number_bytes, online) == found


def folder_of(tmp_path: Path, **config: Any) -> Path:
    own = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "dtype": "bfloat16", **QWEN2_5_7B, **config}
    (tmp_path / "config.json").write_text(json.dumps(own), encoding="utf-8")
    return tmp_path


def settings(folder: Path, **own: Any) -> EngineSettings:
    return EngineSettings(role="policy", model=str(folder), **own)


def test_an_engines_demand_is_of_each_of_its_gpus(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, max_position_embeddings=1000)
    (folder / "model.safetensors").write_bytes(safetensors(4096))
    found = demand_of(settings(folder))
    assert (found.weights_bytes, found.token_bytes) == (2048, 57_344)
    assert (found.context_bytes, found.context_tokens) == (57_344_000, 1000)
    over = demand_of(settings(folder, devices=(2, 3), tensor_parallel_size=2, max_model_len=500, kv_cache_mib=1))
    assert (over.weights_bytes, over.token_bytes) == (1024, 28_672)
    assert (over.context_bytes, over.context_tokens) == (14_336_000, 500)
    assert (over.gpus, over.given_cache_bytes) == ((2, 3), 2**20)
    assert demand_of(settings(folder, tensor_parallel_size=2, dtype="bfloat16"), on_cpu=True).weights_bytes == 2048
    assert demand_of(settings(folder, dtype="float32")).weights_bytes == 4096
    assert demand_of(settings(folder, quantization="fp8")).weights_bytes == 1024


def test_the_language_model_of_a_vision_language_model_has_the_cache(tmp_path: Path) -> None:
    own = {**QWEN2_5_7B, "model_type": "qwen2", "max_position_embeddings": 2000}
    config = {"model_type": "internvl_chat", "architectures": ["InternVLChatModel"], "llm_config": own}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = demand_of(settings(tmp_path))
    assert (found.token_bytes, found.context_tokens) == (57_344, 2000)
    assert found.weights_bytes is None


def test_of_a_config_that_nobody_knows_the_cache_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "from_elsewhere"}', encoding="utf-8")
    found = demand_of(settings(tmp_path))
    assert (found.weights_bytes, found.token_bytes, found.context_bytes, found.context_tokens) == (None,) * 4


def test_of_files_that_an_index_names_no_other_counts(tmp_path: Path) -> None:
    (tmp_path / "model-1.safetensors").write_bytes(safetensors(64, "a"))
    (tmp_path / "consolidated.safetensors").write_bytes(safetensors(64, "a"))
    assert [tensor.name for tensor in tensors_of(tmp_path)] == ["a"]
    (tmp_path / "other.safetensors").write_bytes(safetensors(64, "b"))
    (tmp_path / "value_head.safetensors").write_bytes(safetensors(8, "v_head.weight"))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-1.safetensors"}}', encoding="utf-8")
    assert {tensor.name for tensor in tensors_of(tmp_path)} == {"a", "v_head.weight"}
    index.write_text('{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}', encoding="utf-8")
    assert tensors_of(tmp_path) == []


def test_weights_that_are_on_the_hub_are_known_by_their_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    told = SimpleNamespace(dtype="I32", shape=[3, 4], data_offsets=(10, 58))

    def headers(self: HfApi, name: str) -> Any:
        if name != "a/b":
            raise OSError("no network")
        return SimpleNamespace(files_metadata={"model.safetensors": SimpleNamespace(tensors={"w": told})})

    monkeypatch.setattr(HfApi, "get_safetensors_metadata", headers)
    assert hub_tensors("a/b") == [Tensor("w", "I32", (3, 4), 48)]
    assert hub_tensors("c/d") == []
