"""The weights of a checkpoint folder, as far as its files tell without being loaded."""

import json
import logging
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cos.engines.heads import SIDE_FILE
from cos.search.errors import InputError

logger = logging.getLogger(__name__)

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
"""In this order: of a checkpoint that is there in several formats, one is loaded."""


def weights_bytes(folder: Path, param: str) -> int:
    """How large the weights are, bytes as they are stored.

    Errors: InputError where there are none, a file of them is missing, or one is cut off. ``param`` is what it blames.
    """
    for index in INDEXES:
        if (folder / index).is_file():
            named = sorted(set(json.loads((folder / index).read_text("utf-8"))["weight_map"].values()))
            if missing := [name for name in named if not (folder / name).is_file()]:
                raise InputError(
                    f"--{param} {folder}: {len(missing)} of its {len(named)} files of weights are missing, as "
                    f"{missing[0]}; download the checkpoint again",
                    param,
                )
    files = next((found for pattern in PATTERNS if (found := sorted(folder.glob(pattern)))), [])
    if not files:
        raise InputError(
            f"--{param} {folder}: there is a config.json but no weights (*.safetensors); "
            "download the whole checkpoint, or merge an adapter into its base model",
            param,
        )
    for file in files:
        if file.suffix == ".safetensors" and (whole := whole_bytes(file)) != (size := file.stat().st_size):
            raise InputError(
                f"--{param} {folder}: {file.name} is cut off or no safetensors file ({size} bytes, and its header "
                f"tells of {'nothing' if whole is None else whole}); download the checkpoint again",
                param,
            )
    return sum(file.stat().st_size for file in files)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a checkpoint, as the header of its file tells of it."""

    name: str
    dtype: str
    """As safetensors spells it: "BF16", "I32", "F8_E4M3"."""
    shape: tuple[int, ...]
    stored_bytes: int


def tensors_of(folder: Path) -> list[Tensor]:
    """The tensors of a checkpoint folder that are loaded; none where its weights are no safetensors, or not all there.

    Where an index names the files, others are copies of them in another layout, but for a value head.
    """
    index = folder / INDEXES[0]
    files = [file for file in sorted(folder.glob(PATTERNS[0])) if not file.name.startswith("consolidated")]
    if index.is_file():
        named = {*json.loads(index.read_text("utf-8"))["weight_map"].values()}
        if not named <= {file.name for file in files}:
            return []
        files = [file for file in files if file.name in {*named, SIDE_FILE}]
    return [tensor for file in files for tensor in tensors_in(file)]


def tensors_in(file: Path) -> Iterator[Tensor]:
    """Those of one safetensors file."""
    for name, tensor in _header(file)[1].items():
        if name != "__metadata__":
            begin, end = tensor["data_offsets"]
            yield Tensor(name, tensor["dtype"], tuple(tensor["shape"]), end - begin)


def hub_tensors(name: str) -> list[Tensor]:
    """The tensors of a checkpoint on the hub whose weights are not on this machine: their headers alone are asked for.
    None where there are no safetensors, or the hub cannot be asked."""
    from huggingface_hub import HfApi

    try:
        files = HfApi().get_safetensors_metadata(name).files_metadata
    except Exception as error:
        # Without a network it fails in as many ways as its client has. What is not known is told as such.
        logger.debug("the sizes of %s are not known: %s", name, error)
        return []
    return [
        Tensor(tensor, told.dtype, tuple(told.shape), told.data_offsets[1] - told.data_offsets[0])
        for file in files.values()
        for tensor, told in file.tensors.items()
    ]


def whole_bytes(file: Path) -> int | None:
    """How large a safetensors file is by its own header; None where it has none."""
    length, header = _header(file)
    if length is None:
        return None
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    return 8 + length + max(ends, default=0)


def _header(file: Path) -> tuple[int | None, Mapping[str, Any]]:
    """The length of a safetensors file's header and what it says; None and nothing of a file that has none.

    The layout is 8 bytes with the header's length, the header as JSON, the data (the format's own README).
    """
    with file.open("rb") as opened:
        start = opened.read(8)
        if len(start) < 8:
            return None, {}
        length: int = struct.unpack("<Q", start)[0]
        if length > file.stat().st_size:
            return None, {}
        try:
            return length, json.loads(opened.read(length))
        except ValueError:
            return None, {}
