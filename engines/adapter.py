"""LoRA adapters (arXiv 2106.09685) in PEFT's layout: a PRM that is a small change of the policy's own weights.

What a folder's files say is read here, so that an adapter that vLLM would refuse, or leave out in part without a word,
is refused by name before an engine starts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cos.engines.environment import is_cpu_build
from cos.engines.settings import EngineSettings
from cos.engines.weights import tensors_in, tensors_of, whole_bytes
from cos.search.errors import InputError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PARAM = "prm_lora"
MERGE = "merge it into its base model and give the result as --prm; docs/models.md says how"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM has room for; an adapter of another one takes the room of the next."""
PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Of the ways to begin an adapter that have a name, those that leave the base model's weights as they are."""
FLOATS = ("F64", "F32", "F16", "BF16")
"""Numbers of weights that are not quantised, as safetensors spells them."""
HEAD_TASKS = ("TOKEN_CLS", "SEQ_CLS")

UNSUPPORTED: Mapping[str, tuple[Callable[[Any], bool], str]] = MappingProxyType(
    {
        "use_dora": (bool, "is a DoRA, which scales the base model's weights as well"),
        "bias": (lambda value: value not in (None, "none"), "trains biases of the base model"),
        "lora_bias": (bool, "has biases of its own"),
        "init_lora_weights": (
            lambda value: isinstance(value, str) and value.lower() not in PLAIN_INITS,
            "began by changing the base model's weights (its init_lora_weights)",
        ),
        "alora_invocation_tokens": (bool, "is an Activated LoRA, which begins within a text"),
        "layer_replication": (bool, "repeats layers of the base model"),
        "use_bdlora": (bool, "is a block-diagonal LoRA"),
        "use_qalora": (bool, "is a QALoRA"),
        "trainable_token_indices": (bool, "trains rows of tokens in the embeddings beside its layers"),
        "modules_to_save": (bool, "trains whole modules beside its layers"),
    }
)
"""Keys of adapter_config.json that vLLM 0.32 cannot do (vllm/lora/peft_helper.py), when, and what they say of it."""

_PART = re.compile(r"^(?:base_model\.model\.)?(.+)\.(lora_(?:embedding_)?[AB])(?:\.weight)?$")
_EYES = re.compile(
    r"(^|\.)(vision\w*|visual|vit|image_\w+|\w*projector|connector|merger|mlp1|embed_vision|aligner)(\.|$)"
)
_LAYER = re.compile(r"(?:^|\.)((?:layers|h|blocks)\.\d+\..+)$")


@dataclass(frozen=True, slots=True)
class Adapter:
    """What the files of an adapter say."""

    name: str
    """As the user gave it: a folder or a hub name."""
    folder: Path
    base: str
    """The model that it was trained on; empty where the files do not say."""
    rank: int
    """The highest of its layers' ranks."""
    layers: Mapping[str, tuple[int, int]]
    """The linear layers that it changes, by their names in the base model: how wide their input and output are."""
    files: frozenset[str]

    @property
    def room(self) -> int:
        """The rank that vLLM sets memory aside for."""
        return next(rank for rank in RANKS if rank >= self.rank)

    @property
    def targets(self) -> tuple[str, ...]:
        """The last parts of its layers' names, such as ``q_proj``."""
        return tuple(sorted({layer.rpartition(".")[2] for layer in self.layers}))

    @property
    def parameters(self) -> int:
        """Numbers that an engine has in memory for it."""
        return self.room * sum(read + written for read, written in self.layers.values())


def find_adapter(name: str) -> Adapter:
    """Reads an adapter's config and the header of its weights. Errors: InputError for what is none, or is one that
    vLLM cannot run beside the policy."""
    folder = _folder(name)
    try:
        config: Mapping[str, Any] = json.loads((folder / CONFIG).read_text("utf-8"))
    except ValueError as error:
        raise _error(name, f"its {CONFIG} is no JSON ({error}); download it again") from error
    if (kind := config.get("peft_type")) != "LORA":
        raise _error(name, f"it is a PEFT adapter of the type {kind}, and vLLM runs LORA alone; {MERGE}")
    if (task := config.get("task_type")) in HEAD_TASKS:
        raise _error(
            name,
            f"it has a head ({task}), and an engine that writes has no place for one; merge it into its base model and "
            "give the result as --prm, which then has an engine of its own; docs/models.md says how",
        )
    for key, (holds, what) in UNSUPPORTED.items():
        if holds(config.get(key)):
            named = f" ({', '.join(map(str, config[key]))})" if key == "modules_to_save" else ""
            raise _error(name, f"it {what}{named}, which vLLM cannot do for one PRM alone; {MERGE}")
    ranks: list[int] = [config.get("r") or 0, *(config.get("rank_pattern") or {}).values()]
    if min(ranks) < 1 or max(ranks) > RANKS[-1]:
        wrong = next(rank for rank in ranks if not 0 < rank <= RANKS[-1])
        raise _error(name, f"it has the rank {wrong}, and vLLM runs ranks from 1 to {RANKS[-1]}; {MERGE}")
    return Adapter(
        name=name,
        folder=folder,
        base=config.get("base_model_name_or_path") or "",
        rank=max(ranks),
        layers=MappingProxyType(_layers(name, folder)),
        files=frozenset(path.name for path in folder.iterdir()),
    )


def fitting_adapter(name: str, policy: EngineSettings) -> Adapter:
    """The adapter of a name, which fits the policy's weights as far as these are on this machine. Errors: InputError as
    `find_adapter` and `check_base`, and for an engine that would mix both models."""
    adapter, folder = find_adapter(name), Path(policy.model).expanduser()
    if policy.tensor_parallel_size > 1 and is_cpu_build():
        # The engine's own process has our operations of adapters, and workers beside it would have vLLM's.
        raise _error(name, "on a CPU it takes an engine of one process; leave out --tensor-parallel-size")
    check_base(adapter, folder)
    return adapter


def adapter_arguments(adapter: Adapter) -> dict[str, Any]:
    """What vLLM must be told to run one adapter beside the model itself. Room is set aside for the kinds of layers that
    it has, and not for others."""
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": adapter.room,
        "lora_target_modules": list(adapter.targets),
    }


def check_base(adapter: Adapter, folder: Path) -> None:
    """Compares an adapter's layers with the weights in a policy's folder, as far as they are there: names and, unless
    they are quantised, widths. Errors: InputError for a layer that is not there or has other widths."""
    there: dict[str, tuple[int, ...] | None] = {}
    for tensor in tensors_of(folder):
        module, _, part = tensor.name.rpartition(".")
        if (place := _place(module)) is not None and (part == "weight" or place not in there):
            there[place] = tensor.shape if part == "weight" and tensor.dtype in FLOATS else None
    if not there:
        return
    base = f" ({adapter.base})" if adapter.base else ""
    for layer, (read, written) in adapter.layers.items():
        place = _place(layer)
        if place is None or ".experts" in layer:
            # Embeddings have many names, and experts are stored one by one or together: vLLM knows.
            continue
        if place not in there:
            raise _error(
                adapter.name,
                f"it changes the layer {layer}, and the policy {folder} has none of that name; give the adapter's base "
                f"model as --policy{base}",
            )
        shape = there[place]
        if shape is not None and shape != (written, read):
            raise _error(
                adapter.name,
                f"its layer {layer} has {read} inputs and {written} outputs, and the policy's has "
                f"{shape[-1]} and {shape[0]}; give the adapter's base model as --policy{base}",
            )


def missing_tokens(adapter: Adapter, vocabulary: Callable[[str], int | None]) -> tuple[str, ...]:
    """Added tokens of a tokenizer that was saved with the adapter which the policy's does not have, or has elsewhere.
    ``vocabulary`` gives the policy's id of a token."""
    path = adapter.folder / "tokenizer.json"
    if not path.is_file():
        return ()
    added: list[Mapping[str, Any]] = json.loads(path.read_text("utf-8")).get("added_tokens") or []
    return tuple(one["content"] for one in added if vocabulary(one["content"]) != one["id"])


def _folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            what = "it is a whole checkpoint; give it as --prm"
            if not (folder / "config.json").is_file():
                what = f"the folder has no {CONFIG}; give a folder that PEFT saved an adapter in"
            raise _error(name, what)
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise _error(name, "the folder does not exist; give an adapter's folder or a hub name")
    from transformers.utils.hub import cached_file

    try:
        found = [cached_file(name, file) for file in (CONFIG, WEIGHTS)]
    except (ValueError, OSError) as error:
        first = str(error).strip().partition("\n")[0]
        raise _error(name, f"it cannot be fetched ({first}); give an adapter's folder or a hub name") from error
    return Path(str(found[0])).parent


def _layers(name: str, folder: Path) -> dict[str, tuple[int, int]]:
    """The layers by the header of the weights."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise _error(name, f"there is no {WEIGHTS}; save it in that format, as PEFT does by default")
    if whole_bytes(path) != path.stat().st_size:
        raise _error(name, f"its {WEIGHTS} is cut off or no safetensors file; download it again")
    read, written = dict[str, int](), dict[str, int]()
    for tensor in tensors_in(path):
        if (found := _PART.match(tensor.name)) is None:
            raise _error(name, f"it trains {tensor.name} as a whole, which vLLM cannot do for one PRM alone; {MERGE}")
        layer, part = found.groups()
        if _EYES.search(layer):
            raise _error(
                name,
                f"it changes {layer}, which sees pictures, and one engine looks at them once for both models; {MERGE}",
            )
        (read if part.endswith("A") else written)[layer] = tensor.shape[1] if part.endswith("A") else tensor.shape[0]
    if not read or read.keys() != written.keys():
        raise _error(name, f"its {WEIGHTS} has not an A and a B for every layer; download it again")
    return {layer: (read[layer], written[layer]) for layer in read}


def _place(module: str) -> str | None:
    """A module by what its name ends with, from its layer's number on: what stands before that depends on who saved it.
    None for what is in no layer of the language model."""
    if _EYES.search(module) or (found := _LAYER.search(module)) is None:
        return None
    return found[1]


def _error(name: str, what: str) -> InputError:
    return InputError(f"--prm-lora {name}: {what}", PARAM)
