"""Loss on rows held out of training: the best weights by it, and when to stop.

transformers' own (``load_best_model_at_end``, ``EarlyStoppingCallback``) averages the means of batches and needs every
checkpoint kept; here a loss is over all targets, and the best weights have a folder of their own.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Trainer

from cos.search.errors import InputError
from cos.training.config.keys import TrainingKeys, ValidationKeys
from cos.training.data.named_data import read
from cos.training.data.preflight import Intake, chains_of
from cos.training.data.problems import images_of
from cos.training.data.rows import ChainRow, PairRow, ProblemRow
from cos.training.data.sources import RowKeys
from cos.training.data.splits import keys_of
from cos.training.learning.losses import Counts, StageLoss
from cos.training.runs.folder import StageContext

BEST = "best"
"""The folder of the best weights, in the stage's."""
RECORD = "best.json"
"""Their step and loss, in that folder."""


@dataclass(frozen=True, slots=True)
class Best:
    """The smallest loss so far."""

    step: int
    loss: float


@dataclass(frozen=True, slots=True)
class Validation:
    """What a stage's validation has found so far."""

    keys: ValidationKeys
    folder: Path
    """The stage's."""
    best: Best | None = None

    @property
    def weights(self) -> Path:
        """Where the best weights are."""
        return self.folder / BEST

    @property
    def partial(self) -> Path:
        """Where weights are written before they become the best."""
        return self.folder / f".{BEST}.partial"

    def is_better(self, loss: float) -> bool:
        """Whether a loss is the smallest so far."""
        return self.best is None or loss < self.best.loss

    def is_hopeless(self, step: int) -> bool:
        """Whether as many measurements as ``patience`` says have gone by since the best."""
        waited = 0 if self.best is None else (step - self.best.step) // self.keys.every
        return self.keys.patience is not None and waited >= self.keys.patience

    def accept(self, best: Best) -> None:
        """The weights in `partial` become the best."""
        (self.partial / RECORD).write_text(json.dumps({"step": best.step, "loss": best.loss}), encoding="utf-8")
        shutil.rmtree(self.weights, ignore_errors=True)
        os.replace(self.partial, self.weights)


def found_before(folder: Path, step: int) -> Best | None:
    """The best of a run that goes on from ``step``; None where there is none, or it is of a later step."""
    try:
        record = json.loads((folder / BEST / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    best = Best(int(record["step"]), float(record["loss"]))
    return best if best.step <= step else None


def check_apart(training: Iterable[ProblemRow], held_out: Iterable[ProblemRow]) -> None:
    """Errors: InputError for a question that is both trained on and held out."""
    trained, held = keys_of(training), keys_of(held_out)
    both = [held[key] for key in held.keys() & trained.keys()]
    if both:
        raise InputError(
            f"{len(both)} of {len(held)} held-out questions are trained on, too, such as that of {min(both)!r}; take "
            "them out of one of the files",
            "validation.data",
        )


def held_out_chains(
    keys: TrainingKeys, context: StageContext, intake: Intake, training: Sequence[ChainRow]
) -> list[ChainRow]:
    """The chains that are held out; none where the keys have no ``validation``. Errors: InputError as `check_apart`."""
    if keys.validation is None:
        return []
    images = images_of(keys, context) if isinstance(keys, RowKeys) else None
    held_out = chains_of(keys.validation.data, intake, images=images)
    check_apart((row.problem for row in training), (row.problem for row in held_out))
    return held_out


def taken(intake: Intake, held_out: Sequence[ChainRow | PairRow]) -> dict[str, int]:
    """For ``done.json``: how many rows were taken in, those that are held out apart."""
    facts = intake.facts
    return {**facts, "rows": facts["rows"] - len(held_out), "held_out": len(held_out)} if held_out else facts


def validation_of(keys: TrainingKeys, context: StageContext, held_out: Any) -> Validation | None:
    """Errors: InputError where a stage is to be measured on rows and has none."""
    if keys.validation is None:
        return None
    if held_out is None:
        raise InputError("this stage has no rows that could be held out; leave out validation", "validation")
    return Validation(keys.validation, context.folder)


class HeldOutTrainer(Trainer):
    """A Trainer that counts a loss's targets, and measures it on held-out rows."""

    _loss: StageLoss
    _validation: Validation | None
    _held_out: Counts

    def measured_by(self, loss: StageLoss, validation: Validation | None) -> None:
        """What is measured, to be called before anything else."""
        self._loss, self._validation, self._held_out = loss, validation, {}

    def remember_best(self, step: int) -> None:
        """Takes up what a run that goes on from ``step`` has found."""
        if self._validation is not None:
            self._validation = replace(self._validation, best=found_before(self._validation.folder, step))

    def _targets_of(self, batches: Iterable[Any], device: torch.device) -> Counts:
        """How many targets batches have, over all processes, for each part of the loss."""
        counted = [self._loss.counts(batch) for batch in read(batches)]
        total = torch.stack([torch.stack([value.to(device).float() for value in each.values()]) for each in counted])
        summed = cast(Tensor, self.accelerator.reduce(total.sum(0), reduction="sum"))
        return dict(zip(counted[0], summed, strict=True))

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The loss on held-out rows, over all their targets. The best weights are kept, and training ends when the
        keys say that it has come to nothing for too long. Errors: FloatingPointError for a loss that is not finite."""
        validation = self._validation
        if validation is None:
            return {}
        step = self.state.global_step
        with torch.random.fork_rng():
            torch.manual_seed(self.args.seed)
            loss = self._held_out_loss()
        if not math.isfinite(loss):
            raise FloatingPointError(f"the validation loss is {loss} at step {step} of {validation.folder.name}")
        found = {"validation_loss": loss}
        self.log(dict(found))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        if validation.is_better(loss):
            self._validation = replace(validation, best=Best(step, loss))
            self._keep_best(self._validation)
        elif validation.is_hopeless(step):
            self.control.should_training_stop = True
        return found

    @torch.no_grad()
    def _held_out_loss(self) -> float:
        loader = self.get_eval_dataloader()
        model = cast(nn.Module, self.model_wrapped)
        was_training = model.training
        model.eval()
        if not self._held_out:
            self._held_out = self._targets_of(loader, self.args.device)
        parts: list[Tensor] = []
        for batch in read(loader):
            with self.compute_loss_context_manager():
                parts.append(self._loss(model, self._prepare_inputs(batch), self._held_out)[0].float())
        model.train(was_training)
        return float(cast(Tensor, self.accelerator.reduce(torch.stack(parts).sum(), reduction="sum")))

    def _keep_best(self, validation: Validation) -> None:
        shutil.rmtree(validation.partial, ignore_errors=True)
        self.save_model(str(validation.partial), _internal_call=True)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero() and validation.best is not None:
            validation.accept(validation.best)
        self.accelerator.wait_for_everyone()

    def take_best(self) -> bool:
        """Takes up the best weights. Whether training was ended on purpose: it came to nothing for too long."""
        validation, done = self._validation, self.state.global_step
        if validation is None:
            return False
        if validation.best is not None and validation.best.step < done:
            self._load_from_checkpoint(str(validation.weights))
        return validation.is_hopeless(done)

    @property
    def validated(self) -> Mapping[str, float]:
        """What the best weights were found to be, for a stage's outcome."""
        best = None if self._validation is None else self._validation.best
        return {} if best is None else {"best_step": best.step, "validation_loss": best.loss}
