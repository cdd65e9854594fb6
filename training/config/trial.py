"""One step of a stage, tried beside the run."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cos.search.errors import CosError
from cos.training.config.names import renamed
from cos.training.config.recipe import Recipe, StageConfig, folder_name
from cos.training.config.references import Reference
from cos.training.menu import stage_function
from cos.training.runs.folder import DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step that was tried."""

    seconds: float
    """With loading the model."""
    loss: float | None
    peak_gib: float
    """Peak memory of the process; of the GPU where there is one."""


def one_step(recipe: Recipe, stage: StageConfig, named: Sequence[Reference]) -> Step | str | None:
    """One step of the stage itself, beside the run; what went wrong, or None where something is still to be made."""
    import torch

    if any(one.state != "here" for one in named):
        return None
    here = recipe.context(stage)
    tried = renamed(stage, lambda name: str(here.resolve(name).resolve())).model_copy(
        update={"steps": 1, "epochs": None}
    )
    folder = Path(tempfile.mkdtemp(prefix="cos-check-"))
    context = replace(here, folder=folder / folder_name(stage), runs=folder, leaks="report", trial=True)
    try:
        stage_function(stage.stage)(tried, context)
        done = json.loads((context.folder / DONE).read_text(encoding="utf-8"))
    except (CosError, FloatingPointError) as error:
        return f"one step was tried: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    gpu = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    loss = done["outcome"].get("losses", {}).get("last")
    return Step(seconds=done["seconds"], loss=loss, peak_gib=gpu or done["peak_rss_mib"] / 1024)
