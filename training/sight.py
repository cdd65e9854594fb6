"""Sight: the vision tower and projector learn to name the digit in every cell, and the cell.

Trained end to end from nothing, the tower collapses while the text loss falls nicely; with this dense target first, the
text model later finds features worth looking at. Naming the cell keeps the place in the features: the text model has
only relative positions and must find "row 2, second digit" by content. Both heads are thrown away at the end, and the
projector's output is scaled to a spread that suits the text model's residual stream.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as pictures
from transformers import InternVLForConditionalGeneration

from cos.training.ledger import GRID
from cos.training.loop import Plan, train
from cos.training.mnist import Digits
from cos.training.models import Size
from cos.training.render import EMPTY, Pen, Renderer, random_cells

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""The image processor's normalisation (GotOcr2ImageProcessor's defaults)."""

FEATURE_SPREAD = 0.5
PLACE_WEIGHT = 0.2


def to_pixels(images: Tensor, side: int) -> Tensor:
    """What the image processor makes of uint8 (batch, 3, 112, 112): float (batch, 3, side, side)."""
    small = pictures.resize(images, [side, side], interpolation=pictures.InterpolationMode.BICUBIC, antialias=True)
    return pictures.normalize(small.float() / 255.0, list(MEAN), list(STD))


def image_features(model: InternVLForConditionalGeneration, pixels: Tensor) -> Tensor:
    """What tower and projector make of pixels (batch, 3, side, side): (batch, 16, width)."""
    found: Any = model.model.get_image_features(pixel_values=cast(Any, pixels))
    return cast(Tensor, found if isinstance(found, Tensor) else found.pooler_output)


class Sight(nn.Module):
    """Tower and projector of a model, with a head for the digit of each cell and one for the cell itself."""

    def __init__(self, model: InternVLForConditionalGeneration, width: int) -> None:
        super().__init__()
        self.tower = model.model.vision_tower
        self.projector = model.model.multi_modal_projector
        self.head = nn.Linear(width, EMPTY + 1)
        self.place = nn.Linear(width, GRID * GRID)
        # In a tuple, so that the text model does not become a part of this module.
        self._model = (model,)

    def features(self, pixels: Tensor) -> Tensor:
        """Image features as the text model gets them: (batch, 16, width)."""
        return image_features(self._model[0], pixels)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of digits (batch, 16, 11) and of places (batch, 16, 16), and the features themselves."""
        features = self.features(pixels)
        return self.head(features), self.place(features), features


def train_sight(
    sight: Sight, size: Size, digits: Digits, plan: Plan, batch: int, seed: int, prototypes: Tensor | None = None
) -> None:
    """Trains tower and projector in place; towards ``prototypes`` (digits, cells, width) if there are some."""
    renderer = Renderer(digits, Pen(turn_degrees=12))
    compiled = torch.compile(sight, dynamic=False)
    here = torch.arange(GRID * GRID)

    def loss(step: int) -> tuple[Tensor, Mapping[str, float]]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        cells = random_cells(batch, 0.35 + 0.6 * float(torch.rand(1, generator=generator)), generator)
        pixels = to_pixels(renderer.draw(cells, generator), size.image_side)
        with torch.autocast("cpu", torch.bfloat16):
            logits, places, features = compiled(pixels)
        logits = logits.float()
        value = functional.cross_entropy(logits.flatten(0, 1), cells.flatten())
        value = value + PLACE_WEIGHT * functional.cross_entropy(places.float().flatten(0, 1), here.repeat(batch))
        if prototypes is not None:
            aims = prototypes[cells, here]
            value = value + functional.mse_loss(features.float(), aims) / aims.var()
        written = cells < EMPTY
        hit = (logits.argmax(-1) == cells)[written].float().mean().item()
        return value, {"digit_accuracy": hit}

    train(sight, loss, plan)


@torch.no_grad()
def rescale(sight: Sight, renderer: Renderer, size: Size, seed: int) -> None:
    """Scales the projector so that its output has the spread the text model is started with."""
    generator = torch.Generator().manual_seed(seed)
    pixels = to_pixels(renderer.draw(random_cells(64, 0.6, generator), generator), size.image_side)
    factor = FEATURE_SPREAD / sight.features(pixels).std().item()
    sight.projector.linear_2.weight.mul_(factor)
    sight.projector.linear_2.bias.mul_(factor)


@torch.no_grad()
def prototypes_of(model: InternVLForConditionalGeneration, size: Size, digits: Digits, seed: int) -> Tensor:
    """What a model's tower and projector make of each digit (or none) in each cell, on average: (11, 16, width).

    Another tower trained towards these can stand before the same text model.
    """
    generator = torch.Generator().manual_seed(seed)
    renderer = Renderer(digits, Pen(turn_degrees=12))
    here = torch.arange(GRID * GRID)
    total = torch.zeros(EMPTY + 1, GRID * GRID, size.text_width)
    count = torch.zeros(EMPTY + 1, GRID * GRID, 1)
    for _ in range(40):
        cells = random_cells(128, 0.8, generator)
        features = image_features(model, to_pixels(renderer.draw(cells, generator), size.image_side))
        total.index_put_((cells, here.expand_as(cells)), features, accumulate=True)
        count.index_put_((cells, here.expand_as(cells)), torch.ones(*cells.shape, 1), accumulate=True)
    return total / count


@torch.no_grad()
def digit_accuracy(sight: Sight, digits: Digits, side: int, seed: int = 0, images: int = 512) -> float:
    """Share of digits named rightly on unseen pictures (only while the head still fits: before `rescale`)."""
    generator = torch.Generator().manual_seed(seed)
    cells = random_cells(images, 0.6, generator)
    logits, _, _ = sight(to_pixels(Renderer(digits).draw(cells, generator), side))
    return (logits.argmax(-1) == cells)[cells < EMPTY].float().mean().item()


def load_sight(model: InternVLForConditionalGeneration, size: Size, folder: Path) -> Sight:
    """The trained sight of a finished stage, head included, not rescaled."""
    sight = Sight(model, size.text_width)
    sight.load_state_dict(torch.load(folder / "state.pt", weights_only=True)["modules"])
    return sight
