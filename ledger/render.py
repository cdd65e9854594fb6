"""Ledger images: real handwritten digits on ruled paper, 112 x 112 RGB, four by four cells of 28 pixels.

Batches are rendered with torch, each digit turned, scaled and shifted a little, so that training never sees the same
picture twice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cos.ledger.mnist import Digits
from cos.ledger.task import GRID

CELL = 28
SIDE = GRID * CELL
EMPTY = 10
"""The class of a cell without a digit."""


@dataclass(frozen=True)
class Pen:
    """How far a digit may stray from the middle of its cell."""

    turn_degrees: float = 10.0
    scale_low: float = 0.82
    scale_high: float = 1.12
    shift_pixels: float = 2.5


class Renderer:
    """Draws ledgers with the digits of one split."""

    def __init__(self, digits: Digits, pen: Pen | None = None) -> None:
        self._images = torch.from_numpy(digits.images.copy())
        self._by_label = [torch.from_numpy(np.flatnonzero(digits.labels == label)) for label in range(10)]
        self._pen = pen or Pen()

    def draw(self, cells: Tensor, generator: torch.Generator) -> Tensor:
        """Pictures of ``cells``, int64 (batch, 16) of 0..9 or EMPTY; returns uint8 (batch, 3, 112, 112)."""
        batch = cells.shape[0]
        where = cells.flatten().lt(EMPTY).nonzero().squeeze(1)
        labels = cells.flatten()[where]
        picks = torch.empty_like(labels)
        for label in range(10):
            mine = labels == label
            pool = self._by_label[label]
            picks[mine] = pool[torch.randint(len(pool), (int(mine.sum()),), generator=generator)]
        ink = torch.zeros(batch * GRID * GRID, CELL, CELL)
        ink[where] = self._warp(self._images[picks].float() / 255.0, generator)
        sheet = ink.view(batch, GRID, GRID, CELL, CELL).permute(0, 1, 3, 2, 4).reshape(batch, 1, SIDE, SIDE)
        return self._paint(sheet, generator)

    def _warp(self, glyphs: Tensor, generator: torch.Generator) -> Tensor:
        count = glyphs.shape[0]
        pen = self._pen

        def spread(low: float, high: float) -> Tensor:
            return torch.rand(count, generator=generator) * (high - low) + low

        angle = spread(-pen.turn_degrees, pen.turn_degrees) * math.pi / 180
        scale = 1 / spread(pen.scale_low, pen.scale_high)
        shift = 2 * pen.shift_pixels / CELL
        theta = torch.stack(
            [
                torch.stack([scale * angle.cos(), -scale * angle.sin(), spread(-shift, shift)], 1),
                torch.stack([scale * angle.sin(), scale * angle.cos(), spread(-shift, shift)], 1),
            ],
            1,
        )
        grid = functional.affine_grid(theta, [count, 1, CELL, CELL], align_corners=False)
        return functional.grid_sample(glyphs[:, None], grid, align_corners=False)[:, 0]

    def _paint(self, ink: Tensor, generator: torch.Generator) -> Tensor:
        batch = ink.shape[0]
        paper = torch.tensor([250.0, 246.0, 235.0]).view(1, 3, 1, 1) - 12 * torch.rand(
            batch, 1, 1, 1, generator=generator
        )
        page = paper.expand(batch, 3, SIDE, SIDE).clone()
        page[:, :, CELL - 1 :: CELL, :] = torch.tensor([168.0, 196.0, 222.0]).view(1, 3, 1, 1)
        page[:, :, :, CELL - 3] = torch.tensor([222.0, 150.0, 150.0]).view(1, 3, 1)
        pen_colour = torch.tensor([28.0, 34.0, 92.0]).view(1, 3, 1, 1) + 40 * torch.rand(
            batch, 1, 1, 1, generator=generator
        )
        strength = 0.75 + 0.25 * torch.rand(batch, 1, 1, 1, generator=generator)
        alpha = (ink * strength).clamp(0, 1)
        return (page * (1 - alpha) + pen_colour * alpha).round().clamp(0, 255).to(torch.uint8)


def cells_of(rows: Sequence[str]) -> list[int]:
    """The 16 cells of a ledger, row by row; a number begins in the second column, behind the margin."""
    return [
        int(digit) if digit.isdigit() else EMPTY for row in (*rows, "", "", "", "")[:GRID] for digit in f" {row:<3}"
    ]


def random_cells(batch: int, fill: float, generator: torch.Generator) -> Tensor:
    """Cells filled at random with probability ``fill``: int64 (batch, 16)."""
    cells = torch.randint(10, (batch, GRID * GRID), generator=generator)
    cells[torch.rand(cells.shape, generator=generator) > fill] = EMPTY
    return cells
