"""The heads of checkpoint folders: found by their tensors, and missed before an engine starts."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cos.engines.heads import SIDE_FILE, Head, find_head, head_arguments
from cos.engines.settings import EngineSettings
from cos.search.errors import InputError


def folder_of(folder: Path, architecture: str, **files: dict[str, tuple[int, ...]]) -> Path:
    """A checkpoint with tensors of these shapes."""
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}), "utf-8")
    for name, shapes in files.items():
        save_file({tensor: np.zeros(shape) for tensor, shape in shapes.items()}, folder / f"{name}.safetensors")
    return folder


def arguments(folder: Path) -> object:
    return head_arguments(EngineSettings(role="prm", model=str(folder)))


@pytest.mark.parametrize(
    ("tensors", "head"),
    [
        ({"score.0.weight": (8, 8), "score.2.weight": (2, 8)}, Head("score.2.weight", 2, "model.safetensors")),
        ({"score.weight": (1, 8), "score.bias": (1,)}, Head("score.weight", 1, "model.safetensors")),
        ({"v_head.summary.weight": (1, 8)}, Head("v_head.summary.weight", 1, "model.safetensors")),
        ({"classifier.dense.weight": (8, 8), "classifier.out_proj.weight": (3, 8)},
         Head("classifier.out_proj.weight", 3, "model.safetensors")),
        ({"lm_head.weight": (9, 8), "model.scores.weight": (2, 8)}, None),
    ],
)  # fmt: skip
def test_a_head_is_its_last_layer(tmp_path: Path, tensors: dict[str, tuple[int, ...]], head: Head | None) -> None:
    assert find_head(folder_of(tmp_path, "Any", model=tensors)) == head


@pytest.mark.parametrize(
    "architecture", ["Qwen2ForProcessRewardModel", "Qwen2ForPrmModel", "LlamaForTokenClassification"]
)
def test_a_head_that_the_config_promises_and_the_weights_lack_is_named(tmp_path: Path, architecture: str) -> None:
    folder = folder_of(tmp_path, architecture, model={"lm_head.weight": (9, 8)})
    with pytest.raises(InputError, match=f"says {architecture}, but its weights hold no head") as error:
        arguments(folder)
    assert error.value.param == "prm"


def test_a_value_head_in_a_file_of_its_own_is_loaded(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path,
        "Qwen2_5_VLForConditionalGeneration",
        model={"lm_head.weight": (9, 8)},
        value_head={"v_head.summary.weight": (1, 8)},
    )
    assert find_head(folder) == Head("v_head.summary.weight", 1, SIDE_FILE)
    assert arguments(folder) == {"hf_overrides": {"architectures": ["Qwen2_5_VLForValue"], "num_labels": 1}}
    assert head_arguments(EngineSettings(role="policy", model=str(folder))) == {}


def test_a_value_head_that_cannot_be_loaded_is_named_with_its_file(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "GemmaForCausalLM", value_head={"v_head.summary.weight": (1, 8)})
    with pytest.raises(InputError, match=f"{SIDE_FILE} is beside its weights, and a GemmaForCausalLM") as error:
        arguments(folder)
    assert error.value.param == "prm"


def test_a_checkpoint_that_writes_is_left_alone(tmp_path: Path) -> None:
    assert arguments(folder_of(tmp_path, "Qwen2ForCausalLM", model={"lm_head.weight": (9, 8)})) == {}
    assert head_arguments(EngineSettings(role="prm", model="somebody/something")) == {}
