"""Stage `widen`: a checkpoint as large as another model, which computes what the small one does."""

from dataclasses import asdict
from pathlib import Path
from typing import cast

from cos.checkpoints import resolve
from cos.engines.checkpoint import folder_of
from cos.evaluation.files import replacing_folder
from cos.search.errors import InputError
from cos.training.config.conversion import ShapeKeys, WidenConfig
from cos.training.runs.folder import MODEL, StageContext, StageRun, check_disk
from cos.training.stages.export import FORMATS
from cos.training.widening.checkpoint import widening_of
from cos.training.widening.shape import SHAPES, Shape


def run_widen(config: WidenConfig, context: StageContext) -> None:
    """Writes ``model/``. Errors: InputError for a checkpoint that cannot be widened so."""
    role, name = ("policy", config.policy) if config.prm is None else ("prm", config.prm)
    source = _folder(resolve(role, context.checkpoint(name or "")), role)
    shape = SHAPES[config.to] if config.to is not None else Shape(**cast(ShapeKeys, config.shape).model_dump())
    dtype = FORMATS[config.precision]
    with StageRun(context, "widen") as run:
        widening = widening_of(source, shape)
        check_disk(context.folder, widening.parameters * dtype.itemsize)
        with replacing_folder(context.folder / MODEL) as partial:
            widening.write(partial, dtype, seed=context.seed)
        run.finish(outcome={"parameters": widening.parameters, "precision": config.precision, **asdict(shape)})


def _folder(model: str, role: str) -> Path:
    """Where a checkpoint's files are on this machine. Errors: InputError where there are none."""
    try:
        return folder_of(model)
    except OSError as error:
        raise InputError(f"{role} {model!r}: no checkpoint there; give a checkpoint folder", role) from error
