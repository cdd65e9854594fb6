"""What vLLM 0.32 is taught, by its entry-point group ``vllm.general_plugins``: in each of its processes it calls
`register`, which may be called again."""

from collections.abc import Mapping
from types import MappingProxyType

ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "Qwen2ForPrmModel": "cos.engines.vllm_value_head:Qwen2ForPrmModel",
        "Qwen2_5_VLForValue": "cos.engines.vllm_value_head:Qwen2_5_VLForValue",
    }
)
"""Model classes by the name of the architecture."""


def register() -> None:
    """Tells vLLM of the architectures, without importing them."""
    from vllm import ModelRegistry

    for architecture, where in ARCHITECTURES.items():
        ModelRegistry.register_model(architecture, where)


def knows_quantization(method: str) -> bool:
    """Whether vLLM loads weights that are quantised so, by itself or by a plug-in of somebody else's."""
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    return method in QUANTIZATION_METHODS
