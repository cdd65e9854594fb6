"""The reward heads of checkpoints: what a folder's weights hold beside the language model, and where.

A head that config.json promises and the weights do not hold is told here, before an engine fails to say so.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cos.engines.settings import EngineSettings
from cos.search.errors import InputError

SIDE_FILE = "value_head.safetensors"
"""Where TRL and LLaMA-Factory save a value head, apart from the shards."""
HEADED = (
    "ForProcessRewardModel",
    "ForRewardModel",
    "ForTokenClassification",
    "ForSequenceClassification",
    "ForPrmModel",
)
"""How the names of architectures with a head end."""
_LAST_LAYER = re.compile(r"(^|\.)(score(\.\d+)?|classifier(\.\w+)?|v_head(\.\w+)?)\.weight$")
WITH_VALUE_HEAD: Mapping[str, str] = MappingProxyType(
    {"Qwen2ForCausalLM": "Qwen2ForPrmModel", "Qwen2_5_VLForConditionalGeneration": "Qwen2_5_VLForValue"}
)
"""Architectures that `cos.engines.vllm_value_head` can give a value head, and what they are called with it."""

WIDTHS: Mapping[str, int] = MappingProxyType(
    {"Qwen2ForProcessRewardModel": 2, "Qwen2ForRewardModel": 1, "Qwen2ForPrmModel": 1, "Qwen2_5_VLForValue": 1}
)
"""Architectures whose heads have one width, whatever their config.json says of labels."""


@dataclass(frozen=True, slots=True)
class Head:
    """A head's last layer."""

    tensor: str
    width: int
    """How many values it gives at a token."""
    file: str


def find_head(folder: Path) -> Head | None:
    """The head of a checkpoint folder; None where its weights hold none, or are no safetensors."""
    found = [Head(name, shape[0], file) for file, name, shape in _tensors(folder) if _LAST_LAYER.search(name)]
    # Of a head of several layers, the last one gives the values.
    return max(found, key=lambda head: (head.file != SIDE_FILE, head.tensor), default=None)


def head_arguments(settings: EngineSettings) -> Mapping[str, Any]:
    """What vLLM must be told of a checkpoint's head beyond its config.json: a value head in a file of its own. Errors:
    InputError for a head that is missing, or that cannot be loaded."""
    folder = Path(settings.model).expanduser()
    if not (folder / "config.json").is_file():
        return {}
    architectures: list[str] = json.loads((folder / "config.json").read_text("utf-8")).get("architectures") or []
    named = architectures[0] if architectures else ""
    if named.endswith(HEADED) and [*folder.glob("*.safetensors")] and find_head(folder) is None:
        raise InputError(
            f"--{settings.role} {settings.model}: its config.json says {named}, but its weights hold no head "
            "(no tensor named score, classifier or v_head); give the whole checkpoint of the PRM",
            settings.role,
        )
    if not (folder / SIDE_FILE).is_file() or settings.role != "prm" or named.endswith(HEADED):
        return {}
    if named not in WITH_VALUE_HEAD:
        able = ", ".join(WITH_VALUE_HEAD)
        raise InputError(
            f"--prm {settings.model}: {SIDE_FILE} is beside its weights, and a {named} with it cannot be loaded, only "
            f"{able}; take the file away to use the model as one that writes",
            "prm",
        )
    return {"hf_overrides": {"architectures": [WITH_VALUE_HEAD[named]], "num_labels": 1}}


def _tensors(folder: Path) -> Iterator[tuple[str, str, list[int]]]:
    """File, name and shape of each tensor, without reading any."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118 - no mapping
                yield path.name, name, weights.get_slice(name).get_shape()
