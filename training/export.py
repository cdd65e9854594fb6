"""Stage `export`: a checkpoint as it ships. Training keeps weights in float32; they are served in bfloat16."""

from __future__ import annotations

import torch

from cos.training.encode import load_checkpoint
from cos.training.folder import StageContext, StageRun
from cos.training.recipe import ExportConfig

FORMATS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def run_export(config: ExportConfig, context: StageContext) -> None:
    """Writes ``model/``. Errors: InputError for a checkpoint that cannot be used."""
    with StageRun(context, "export") as run:
        model, processor = load_checkpoint(context.checkpoint(config.model))
        parameters = sum(weights.numel() for weights in model.parameters())
        for part in model.config.sub_configs:
            getattr(model.config, part).dtype = FORMATS[config.precision]
        if processor.tokenizer.is_fast:
            processor.tokenizer.backend_tokenizer.no_padding()  # the trainer's batches were padded
        outcome = {"parameters": parameters, "precision": config.precision}
        run.finish(model.to(FORMATS[config.precision]), processor, outcome)  # pyright: ignore[reportArgumentType]
