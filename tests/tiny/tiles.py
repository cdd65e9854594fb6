"""InternVL's published preprocessing, written down from its description: how a picture is cut into tiles, and what
InternVLChatModel is shown for a conversation.

A picture becomes one to ``most`` square tiles, in that grid whose proportions are nearest to its own; of two that are
equally near the larger one where the picture has more than half of its pixels. It is resized to the grid, and the tiles
go row by row. Behind more than one tile comes the whole picture as one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cos.search.prompt import Prompt

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's."""


def grid(width: int, height: int, side: int, most: int = 12) -> tuple[int, int]:
    """Columns and rows of tiles."""
    grids = sorted(
        {(columns, rows) for columns in range(1, most + 1) for rows in range(1, most + 1) if columns * rows <= most},
        key=lambda found: found[0] * found[1],
    )
    best, nearest = (1, 1), float("inf")
    for columns, rows in grids:
        far = abs(width / height - columns / rows)
        is_large = width * height > 0.5 * side * side * columns * rows
        if far < nearest or (far == nearest and is_large):
            best, nearest = (columns, rows), far
    return best


def tiles_of(image: Image.Image, side: int) -> torch.Tensor:
    """Pixels as the vision tower takes them: (tiles, 3, side, side)."""
    columns, rows = grid(*image.size, side)
    resized = image.resize((columns * side, rows * side), Image.Resampling.BICUBIC)
    cut = [
        resized.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
        for row in range(rows)
        for column in range(columns)
    ]
    if len(cut) > 1:
        cut.append(image.resize((side, side), Image.Resampling.BICUBIC))
    pixels = torch.from_numpy(np.stack([np.asarray(tile) for tile in cut])).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def inputs(folder: Path, prompt: Prompt) -> dict[str, Any]:
    """Token ids and pixels of a conversation: its turns in ChatML, each picture as its tiles' tokens and a line end."""
    from transformers import AutoTokenizer

    words: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    config = json.loads((folder / "config.json").read_text())
    side = config["force_image_size"]
    tokens = int((side // config["vision_config"]["patch_size"]) ** 2 * config["downsample_ratio"] ** 2)
    found = [tiles_of(picture.image, side) for picture in prompt.pictures]
    shown = iter(found)
    text = words.bos_token or ""
    for turn in prompt.turns:
        text += f"<|im_start|>{turn.role}\n"
        for part in turn.parts:
            if isinstance(part, str):
                text += part
            else:
                text += f"<img>{'<IMG_CONTEXT>' * len(next(shown)) * tokens}</img>\n"
        text += "<|im_end|>\n"
    ids = words.encode(f"{text}<|im_start|>assistant\n", add_special_tokens=False)
    return {"input_ids": torch.tensor([ids]), **({"pixel_values": torch.cat(found)} if found else {})}
