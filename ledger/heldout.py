"""Writes the held-out ledgers that ship with the package: problems.jsonl and one PNG each, in one zip archive."""

import io
import json
import random
import zipfile
from pathlib import Path

import torch
from PIL import Image

from cos.ledger.mnist import Digits
from cos.ledger.render import Renderer, cells_of
from cos.ledger.task import derive, sample_problem

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Fixed time stamp: the archive is the same, byte for byte, whenever it is made."""


def write_heldout(path: Path, digits: Digits, problems: int, seed: int) -> None:
    """Samples problems and draws them with the digits of MNIST's test writers."""
    rng = random.Random(f"heldout/{seed}")
    renderer = Renderer(digits)
    rows: list[str] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for index in range(problems):
            problem = sample_problem(rng)
            name = f"ledger-{index:04d}"
            row = {
                "id": name,
                "kind": problem.kind,
                "question": problem.question,
                "answer": derive(problem).answer,
                "rows": problem.rows,
            }
            rows.append(json.dumps(row))
            generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
            picture = renderer.draw(torch.tensor([cells_of(problem.rows)]), generator)[0]
            archive.writestr(zipfile.ZipInfo(f"{name}.png", _EPOCH), _png(picture))
        archive.writestr(zipfile.ZipInfo("problems.jsonl", _EPOCH), "\n".join(rows) + "\n")


def _png(picture: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
