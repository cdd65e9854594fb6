"""Writes a widened checkpoint, file by file."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cos.evaluation.progress import bar_of
from cos.search.errors import InputError
from cos.training.widening.placement import Placement, made_of, placements
from cos.training.widening.shape import Shape, check_shape, shape_of

SHARD_BYTES = 4 << 30
NOISE_STD = 0.02
"""As transformers initialises weights."""
NOISE_LENGTH = 1 << 22
"""Random numbers that are drawn. All noise is made of them, as drawing billions takes minutes."""
COPIED = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""Files of a checkpoint beside its weights: tokenizer, chat template, processor."""
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Number formats of weights that are not quantised, as safetensors calls them."""
LOADED_NAMES = (
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)
"""How the names of tensors begin in InternVL while it is loaded, and in a checkpoint as transformers saves it."""


@dataclass(frozen=True, slots=True)
class Widening:
    """A checkpoint and the sizes that it is to have."""

    source: Path
    old: Shape
    new: Shape
    placements: Mapping[str, Placement]
    """The tensors of the widened checkpoint by their names."""

    @property
    def parameters(self) -> int:
        return sum(math.prod(place.size) for place in self.placements.values())

    def write(self, target: Path, dtype: torch.dtype = torch.bfloat16, *, seed: int = 0) -> None:
        """Writes the widened checkpoint into the folder ``target``, which is made where it is missing.

        In float32 it computes what the source does, to some 1e-5 of a logit. In bfloat16 it does so to that format's
        own error, as the roots by which weights are multiplied are rounded. ``seed``: of the noise.

        Errors: InputError for a folder that holds something.
        """
        if target.exists() and any(target.iterdir()):
            raise InputError(f"{target} is not empty; give a folder of its own for the widened checkpoint", "target")
        target.mkdir(parents=True, exist_ok=True)
        _write_weights(target, self.placements, _files(self.source), dtype, seed)
        for path in _others(self.source):
            shutil.copyfile(path, target / path.name)
        config = _config_of(self.source)
        _grow(config, self.old, self.new, dtype)
        (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def widening_of(source: Path, new: Shape) -> Widening:
    """Looks through the checkpoint in the folder ``source``.

    Errors: InputError for a model of another kind, and for sizes that it cannot grow to.
    """
    config = _config_of(source)
    text = _text_of(config, source)
    old = shape_of(text)
    check_shape(old, new, text)
    _check_whole(source, config)
    return Widening(source, old, new, dict(placements(_sizes(_files(source)), old, new)))


def shape_in(source: Path) -> Shape:
    """The sizes of the text model of the checkpoint in a folder. Errors: InputError for a model of another kind."""
    return shape_of(_text_of(_config_of(source), source))


def _config_of(source: Path) -> dict[str, Any]:
    """Errors: InputError for a folder without a config."""
    path = source / "config.json"
    if not path.is_file():
        raise InputError(f"{source}: no config.json there; give a checkpoint folder", "model")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: no JSON: {error}; copy the checkpoint again", "model") from error


def _text_of(config: dict[str, Any], source: Path) -> dict[str, Any]:
    """The part of a config that describes the text model. Errors: InputError for a model of another kind."""
    text = config.get("text_config", config)
    kinds = (config.get("model_type"), text.get("model_type"))
    if kinds not in (("internvl", "qwen2"), ("qwen2", "qwen2")):
        raise InputError(
            f"{source}: the model_type is {kinds[0]!r} with a text model {kinds[1]!r}; only 'internvl' with 'qwen2', "
            "and 'qwen2' alone, can be widened",
            "model",
        )
    return text


def _check_whole(source: Path, config: Mapping[str, Any]) -> None:
    """Errors: InputError for weights that are not all of the model, or that are quantised."""
    if (source / ADAPTER).is_file():
        raise InputError(f"{source}: there is an {ADAPTER}; merge the adapter into the weights first", "model")
    if config.get("quantization_config") or config.get("compression_config"):
        raise InputError(f"{source}: its config.json names a quantisation; give the checkpoint it was made of", "model")


def _grow(config: dict[str, Any], old: Shape, new: Shape, dtype: torch.dtype) -> None:
    """Changes a config to that of the widened checkpoint."""
    text = config.get("text_config", config)
    text.update(asdict(new), rms_norm_eps=text.get("rms_norm_eps", 1e-6) * old.hidden_size / new.hidden_size)
    text.pop("head_dim", None)
    if layers := text.get("layer_types"):
        text["layer_types"] = layers + ["full_attention"] * (new.num_hidden_layers - len(layers))
    for part in (config, text, config.get("vision_config", {})):
        part.pop("torch_dtype", None)
        part["dtype"] = str(dtype).removeprefix("torch.")


def _files(source: Path) -> list[Path]:
    """The files of a checkpoint's weights. Errors: InputError where there are none, or not all."""
    index, whole = source / INDEX, source / WEIGHTS
    if index.is_file() and whole.is_file():
        raise InputError(f"{source}: there are both {WEIGHTS} and {INDEX}; remove the one that is not meant", "model")
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    elif whole.is_file():
        names = {WEIGHTS}
    else:
        raise InputError(
            f"{source}: no {WEIGHTS} there, and no {INDEX}; save the checkpoint with safetensors, or copy all of it",
            "model",
        )
    if missing := [name for name in sorted(names) if not (source / name).is_file()]:
        raise InputError(
            f"{source}: {missing[0]}, which {INDEX} names, is missing; copy all of the checkpoint", "model"
        )
    return [source / name for name in sorted(names)]


def _sizes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """Errors: InputError for files that cannot be read, and for weights that are quantised."""
    found: dict[str, tuple[int, ...]] = {}
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                for name, part in parts.items():
                    if part.get_dtype() not in FLOATS:
                        raise InputError(
                            f"{path}: the tensor {name} has the number format {part.get_dtype()}; only weights that "
                            "are not quantised can be widened",
                            "model",
                        )
                    found[_saved(name)] = tuple(part.get_shape())
        except SafetensorError as error:
            raise InputError(f"{path}: cannot be read: {error}; copy the checkpoint again", "model") from error
    return found


def _saved(name: str) -> str:
    """A tensor's name as transformers saves it."""
    for loaded, saved in LOADED_NAMES:
        if name.startswith(loaded):
            return saved + name.removeprefix(loaded)
    return name


def _write_weights(
    target: Path, wanted: Mapping[str, Placement], files: list[Path], dtype: torch.dtype, seed: int
) -> None:
    """Writes all tensors into files of at most `SHARD_BYTES`, with an index where there are several."""
    shards: list[list[str]] = [[]]
    held = 0
    for name, place in wanted.items():
        size = math.prod(place.size) * dtype.itemsize
        if shards[-1] and held + size > SHARD_BYTES:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    source = {name: tensor for path in files for name, tensor in _read(path)}
    noise = (torch.randn(NOISE_LENGTH, generator=torch.Generator().manual_seed(seed)) * NOISE_STD).to(dtype)
    where: dict[str, str] = {}
    with bar_of("tensors written", len(wanted), 0) as bar:
        for number, names in enumerate(shards, 1):
            several = len(shards) > 1
            file = f"model-{number:05}-of-{len(shards):05}.safetensors" if several else "model.safetensors"
            made: dict[str, Tensor] = {}
            for name in names:
                made[name] = made_of(wanted[name], source, noise)
                where[name] = file
                bar.update()
            save_file(made, target / file, {"format": "pt"})
    if len(shards) > 1:
        total = sum(math.prod(place.size) for place in wanted.values()) * dtype.itemsize
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (target / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _read(path: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            yield _saved(name), file.get_tensor(name)


def _others(source: Path) -> Iterator[Path]:
    """The files beside the weights and the config."""
    for pattern in COPIED:
        yield from (path for path in source.glob(pattern) if path.name not in ("config.json", INDEX))
