"""Stage `sight`: the vision tower and projector of a small model learn to name the digit in every cell, and the cell.

Trained end to end from nothing, the tower collapses while the text loss falls nicely; with this dense target first, the
text model later finds features worth looking at. Naming the cell keeps the place in the features: the text model has
only relative positions and must find "row 2, second digit" by content. Both heads are thrown away at the end. The
first tower's projector is scaled to a spread that suits the text model's residual stream; a second tower (the PRM's)
is trained towards what the first one makes of each digit in each cell, so that it can stand before the same text model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from cos.ledger.mnist import fetched
from cos.ledger.mnist import load as load_digits
from cos.ledger.render import EMPTY, Pen, Renderer, random_cells
from cos.ledger.task import GRID
from cos.ledger.tiny_model import SIZES, build_model, build_processor, build_tokenizer
from cos.training.config.names import Split
from cos.training.config.recipe import SightConfig
from cos.training.data.splits import claim
from cos.training.learning.encode import load_checkpoint
from cos.training.learning.losses import Batch, Counts, Numbers
from cos.training.learning.trainer import StageTrainer
from cos.training.runs.folder import StageContext, StageRun

FEATURE_SPREAD = 0.5
PLACE_WEIGHT = 0.2
PEN = Pen(turn_degrees=12)
BATCH = 128
"""Pictures that are looked at together where nothing is learnt."""


def image_features(model: nn.Module, pixels: Tensor) -> Tensor:
    """What tower and projector make of pixels (batch, 3, side, side): (batch, 16, width)."""
    found: Any = cast(Any, model).model.get_image_features(pixel_values=pixels)
    return cast(Tensor, found if isinstance(found, Tensor) else found.pooler_output)


class SightHeads(nn.Module):
    """Names the digit of each cell, and the cell itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.digit = nn.Linear(width, EMPTY + 1)
        self.place = nn.Linear(width, GRID * GRID)


class CellData(Dataset[tuple[Tensor, Tensor]]):
    """Pictures with random cells: sample i follows from the seed and i."""

    def __init__(self, renderer: Renderer, samples: int, seed: int) -> None:
        self._renderer, self._samples, self._seed = renderer, samples, seed

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """A batch at once: its pictures are drawn together."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + indices[0])
        cells = random_cells(len(indices), 0.35 + 0.6 * float(torch.rand(1, generator=generator)), generator)
        return list(zip(self._renderer.draw(cells, generator), cells, strict=True))


@dataclass(frozen=True)
class CellCollator:
    """Pictures through the checkpoint's own image processor."""

    processor: Any

    def __call__(self, samples: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """``pixel_values`` (batch, 3, side, side) and ``cells`` (batch, 16)."""
        pictures = [picture for picture, _ in samples]
        made = self.processor.image_processor(images=pictures, return_tensors="pt")
        return {"pixel_values": made["pixel_values"], "cells": torch.stack([cells for _, cells in samples])}


@dataclass(frozen=True)
class SightLoss:
    """Cross-entropy over digits and places; towards ``aims`` (digits, cells, width) if there are some."""

    heads: SightHeads
    aims: Tensor | None

    def counts(self, batch: Batch) -> Counts:
        """Cells."""
        return {"cells": torch.tensor(batch["cells"].numel(), device=batch["cells"].device)}

    def __call__(self, model: nn.Module, batch: Batch, counts: Counts | None = None) -> tuple[Tensor, Numbers]:
        """As `cos.training.learning.losses.StageLoss`."""
        cells: Tensor = batch["cells"]
        here = torch.arange(GRID * GRID)
        features = image_features(model, batch["pixel_values"])
        logits = self.heads.digit(features).float()
        value = functional.cross_entropy(logits.flatten(0, 1), cells.flatten())
        places = self.heads.place(features).float()
        value = value + PLACE_WEIGHT * functional.cross_entropy(places.flatten(0, 1), here.repeat(len(cells)))
        if self.aims is not None:
            value = value + functional.mse_loss(features.float(), self.aims[cells, here]) / self.aims.var()
        hit = (logits.argmax(-1) == cells)[cells < EMPTY].float().mean().item()
        share = 1.0 if counts is None else cells.numel() / counts["cells"]
        return value * share, {"digit_accuracy": hit}


OTHER: Mapping[Split, Split] = {"policy": "prm", "prm": "policy"}
"""Whose digits an eye is measured on that has learnt its own."""


def run_sight(config: SightConfig, context: StageContext) -> None:
    """Builds a model of the size of ``role``, trains its eyes and writes ``model/``."""
    with StageRun(context, "sight") as run:
        leaks = claim(context, config.role, digits=(config.role,), checkpoints=(config.towards,))
        tokenizer = build_tokenizer(context.seed)
        size = SIZES[config.role]
        model, processor = build_model(size, tokenizer, context.seed), build_processor(size, tokenizer)
        digits = fetched(context, config.role)
        collate = CellCollator(processor)
        aims = None
        if config.towards is not None:
            first, its = load_checkpoint(context.checkpoint(config.towards))
            drawn = Renderer(load_digits(context.mnist, "policy"), PEN)
            aims = prototypes_of(first, CellCollator(its), drawn, config.averaged_over, context.seed)
        torch.manual_seed(context.seed)
        heads = SightHeads(size.text_width)
        samples = config.batch * config.accumulate * (config.steps or 1) * context.ranks.count
        data = CellData(Renderer(digits, PEN), samples, context.seed)
        loss = SightLoss(heads, aims)
        whole = StageTrainer(model, loss, data, collate, config, context, extra=heads, in_order=True).run()
        outcome: dict[str, Any] = {**leaks}
        if whole is not None:
            other = CellData(Renderer(load_digits(context.mnist, OTHER[config.role])), 512, context.seed)
            outcome["digits_unseen"] = digit_accuracy(whole, loss, collate, other)
            if aims is None:
                rescale(whole, collate, data)
        run.finish(whole, processor, outcome)


@torch.no_grad()
def digit_accuracy(model: PreTrainedModel, loss: SightLoss, collate: CellCollator, data: CellData) -> float:
    """Share of digits named rightly on unseen pictures (while the heads still fit: before `rescale`)."""
    model.eval()
    batches = [collate(data.__getitems__(range(start, start + BATCH))) for start in range(0, len(data), BATCH)]
    return sum(loss(model, batch)[1]["digit_accuracy"] for batch in batches) / len(batches)


@torch.no_grad()
def rescale(model: PreTrainedModel, collate: CellCollator, data: CellData) -> None:
    """Scales the projector so that its output has the spread the text model is started with."""
    spread = image_features(model, collate(data.__getitems__(range(64)))["pixel_values"]).std().item()
    last = cast(Any, model).model.multi_modal_projector.linear_2
    last.weight.mul_(FEATURE_SPREAD / spread)
    last.bias.mul_(FEATURE_SPREAD / spread)


@torch.no_grad()
def prototypes_of(
    model: PreTrainedModel, collate: CellCollator, renderer: Renderer, pictures: int, seed: int
) -> Tensor:
    """What a model's tower and projector make of each digit (or none) in each cell, on average over so many pictures
    and those that make the last batch whole: (11, 16, width)."""
    here = torch.arange(GRID * GRID)
    generator = torch.Generator().manual_seed(seed)
    total, count = torch.tensor(0.0), torch.tensor(0.0)
    for _ in range(0, pictures, BATCH):
        cells = random_cells(BATCH, 0.8, generator)
        batch = collate(list(zip(renderer.draw(cells, generator), cells, strict=True)))
        features = image_features(model, batch["pixel_values"]).float()
        seen = torch.zeros(EMPTY + 1, GRID * GRID, features.shape[-1])
        total = total + seen.index_put((cells, here.expand_as(cells)), features, accumulate=True)
        ones = torch.ones(*cells.shape, 1)
        count = count + torch.zeros(EMPTY + 1, GRID * GRID, 1).index_put(
            (cells, here.expand_as(cells)), ones, accumulate=True
        )
    return total / count
