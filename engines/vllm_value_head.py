"""Language models with TRL's value head (``v_head.summary``: a linear layer of one value, with a bias), for vLLM 0.32.

vLLM makes classifiers of models that write, but knows their head by the name ``score`` alone. Here it has its own name,
and may stand in `cos.engines.heads.SIDE_FILE`, where vLLM does not look.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from vllm.model_executor.models.adapters import as_seq_cls_model
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from vllm.transformers_utils.repo_utils import get_hf_file_bytes

from cos.engines.heads import SIDE_FILE

Weights = Iterable[tuple[str, torch.Tensor]]
_PREFIX = "v_head.summary."


class Qwen2ForPrmModel(as_seq_cls_model(Qwen2ForCausalLM)):  # pyright: ignore[reportUntypedBaseClass]
    """As Skywork-o1-Open-PRM is published."""

    vllm_config: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        vllm_config.model_config.hf_config.num_labels = 1
        super().__init__(vllm_config=vllm_config, prefix=prefix)

    def load_weights(self, weights: Weights) -> set[str]:
        return super().load_weights(_with_score(weights, self.vllm_config.model_config))


class Qwen2_5_VLForValue(as_seq_cls_model(Qwen2_5_VLForConditionalGeneration)):
    """As Skywork-VL-Reward is published."""

    vllm_config: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        vllm_config.model_config.hf_config.num_labels = 1
        super().__init__(vllm_config=vllm_config, prefix=prefix)

    def load_weights(self, weights: Weights) -> set[str]:
        return super().load_weights(_with_score(weights, self.vllm_config.model_config))


def _with_score(weights: Weights, model_config: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights, the value head among them by the name that vLLM looks for."""
    seen = set[str]()
    for name, weight in chain(weights, _side_file(model_config)):
        if name.startswith("lm_head.") or name in seen:
            continue
        if name.startswith(_PREFIX):
            seen.add(name)  # without an index, vLLM reads the side file among the shards
        yield name.replace(_PREFIX, "score.", 1) if name.startswith(_PREFIX) else name, weight


def _side_file(model_config: Any) -> Weights:
    from safetensors.torch import load

    found = get_hf_file_bytes(SIDE_FILE, model_config.model, model_config.revision)
    return load(found).items() if found else ()
