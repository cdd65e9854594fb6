"""Stage `export`: a checkpoint as it ships. Training keeps weights in float32; they are served in bfloat16."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from transformers import PreTrainedModel

from cos.search.errors import InputError
from cos.training.config.conversion import ExportConfig
from cos.training.learning.encode import load_checkpoint
from cos.training.runs.folder import StageContext, StageRun

FORMATS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def run_export(config: ExportConfig, context: StageContext) -> None:
    """Writes ``model/``. Errors: InputError for a checkpoint that cannot be used."""
    with StageRun(context, "export") as run:
        model, processor = load_checkpoint(context.checkpoint(config.model))
        for name in config.averaged_with:
            add_weights(model, load_checkpoint(context.checkpoint(name))[0], name)
        divide_weights(model, 1 + len(config.averaged_with))
        parameters = sum(weights.numel() for weights in model.parameters())
        for part in model.config.sub_configs:
            getattr(model.config, part).dtype = FORMATS[config.precision]
        if processor.tokenizer.is_fast:
            processor.tokenizer.backend_tokenizer.no_padding()  # the trainer's batches were padded
        outcome = {"parameters": parameters, "precision": config.precision}
        run.finish(model.to(FORMATS[config.precision]), processor, outcome)  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def add_weights(model: PreTrainedModel, other: PreTrainedModel, name: str) -> None:
    """Adds another model's weights in place. Errors: InputError, naming the other, when the two are not alike."""
    mine, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    unlike = sorted(key for key in mine.keys() | theirs.keys() if _shape(mine, key) != _shape(theirs, key))
    if unlike:
        key = unlike[0]
        raise InputError(
            f"averaged_with {name!r}: {key} has the shape {_shape(theirs, key)} there and {_shape(mine, key)} in the "
            "model; average checkpoints of one training",
            "averaged_with",
        )
    for key, weights in mine.items():
        weights += theirs[key]


@torch.no_grad()
def divide_weights(model: PreTrainedModel, count: int) -> None:
    """Makes a sum of weights their mean, in place."""
    if count > 1:
        for weights in model.parameters():
            weights /= count


def _shape(weights: Mapping[str, nn.Parameter], key: str) -> tuple[int, ...] | None:
    return tuple(weights[key].shape) if key in weights else None
