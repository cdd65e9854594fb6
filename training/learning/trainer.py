"""The trainer that every stage shares: transformers' Trainer with atomic checkpoints, exact resume, a stop at the first
loss that is not finite, one metrics log and one progress bar.

What it adds to the library's: a checkpoint is written to a temporary folder and renamed, so that a kill at any moment
leaves the last one loadable; weights are resumed through ``from_pretrained`` (saved key names differ from the module's
for some architectures, and ``load_state_dict(strict=False)`` would then load nothing); heads that are thrown away after
training (`extra`) are saved and resumed beside the model; a signal that ends the run saves a checkpoint first. In
several processes all ranks train, and the first one alone writes (`cos.training.runs.ranks`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from cos.evaluation.failures import StageError, of_stage
from cos.search.errors import InputError
from cos.training.config.keys import TrainingKeys
from cos.training.data.batches import ByLength
from cos.training.data.named_data import NamedData, collate_named, read
from cos.training.learning.arguments import arguments
from cos.training.learning.joint import Joint
from cos.training.learning.losses import Counts, StageLoss
from cos.training.learning.optimizer import MuonAdamW
from cos.training.learning.parts import part_of, trained_parts
from cos.training.learning.reporters import tensorboard
from cos.training.learning.schedule import schedule
from cos.training.learning.sharded import Blueprint, check_sharding, name_layers, whole_model
from cos.training.learning.validation import HeldOutTrainer, validation_of
from cos.training.runs.folder import StageContext, check_disk
from cos.training.runs.metrics import add_metrics, cut_metrics
from cos.training.runs.stopping import StopOnSignal, Undisturbed

EXTRA = "extra.safetensors"
"""The heads beside the model, in a checkpoint folder."""


class StageTrainer(HeldOutTrainer):
    """Trains ``model`` (and ``extra``, which is no part of it) by a loss function over collated batches."""

    def __init__(
        self,
        model: PreTrainedModel,
        loss: StageLoss,
        data: Dataset[Any],
        collate: Callable[[list[Any]], dict[str, Any]],
        keys: TrainingKeys,
        context: StageContext,
        *,
        extra: nn.Module | None = None,
        in_order: bool = False,
        held_out: Dataset[Any] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> None:
        """``in_order``: the data's own order is random already (drawn from a seed), so batches follow it.
        ``held_out``: what is measured on where the keys have a ``validation``. ``lengths``: tokens of each sample,
        where batches are to be of like length (`cos.training.data.batches.lengths_of`).

        Errors: InputError without one that the keys ask for, and for what cannot be trained in shards.
        """
        if keys.group_by_length and lengths is None:
            raise InputError(
                "this stage has no rows whose lengths differ; leave out group_by_length", "group_by_length"
            )
        self._lengths = lengths
        self.extra = extra
        self._keys = keys
        self._numbers: dict[str, list[float]] = {}
        self._partial = context.folder / ".partial"
        self._saving = False
        self._folder = context.folder
        self._ranks = context.ranks
        self._stop = StopOnSignal(context.ranks)
        self._blueprint = Blueprint.of(model)
        self.measured_by(loss, validation_of(keys, context, held_out))
        prepare_trainable(model, keys)
        super().__init__(
            model=model,
            args=arguments(keys, context, in_order=in_order),
            train_dataset=NamedData(data, context.folder.name),
            eval_dataset=None if held_out is None else NamedData(held_out, context.folder.name),
            data_collator=collate_named(collate, context.folder.name),
        )
        # Whether `compute_loss` has divided by all of a step, or Trainer is to divide by the number of its batches.
        self.loss_is_scaled_for_ga = keys.averaged == "step"
        for callback in (ProgressCallback, PrinterCallback):
            self.remove_callback(callback)
        self.add_callback(Bar(context.folder.name))
        self.add_callback(self._stop)
        check_sharding(self.accelerator, keys, has_heads=extra is not None)
        name_layers(self.accelerator, model)

    def run(self) -> PreTrainedModel | None:
        """Trains to the end, from the newest checkpoint if there is one. Every rank is to call it.

        Returns the trained model, whole, on the first rank, where all that follows is done; None on the others.
        Errors: FloatingPointError at a loss or gradient that is not finite, before anything is written; StageError for
        data that cannot be used, after fewer steps than were planned, and, with a checkpoint of the last step, when a
        signal has ended the run; InputError for a checkpoint by another number of processes.
        """
        begun = self._ranks.first(self._begin)
        self.remember_best(begun)
        if "tensorboard" in self._keys.report_to and self._ranks.is_first:
            self.add_callback(tensorboard(self._folder, begun))
        with self._stop.listening():
            self.train(resume_from_checkpoint=str(self._folder / f"checkpoint-{begun}") if begun else None)
        done, planned = self.state.global_step, self.state.max_steps
        if self._stop.has_stopped:
            raise StageError(
                f"{of_stage(self._folder.name)} was told to stop: a checkpoint of step {done} of {planned} is saved, "
                "and the same command goes on from there"
            )
        if not self.take_best() and done < planned:
            raise StageError(
                f"{of_stage(self._folder.name)} did {done} of {planned} planned steps: its data ended too soon; "
                "nothing is written. Check the files of its data and run the same command again"
            )
        return whole_model(self.accelerator, self.model_wrapped, cast("PreTrainedModel", self.model), self._blueprint)

    def _begin(self) -> int:
        """Clears away what a kill has left, and gives the step to go on from; 0 where there is no checkpoint."""
        shutil.rmtree(self._partial, ignore_errors=True)
        newest = newest_checkpoint(self._folder)
        if newest is not None:
            check_count(newest, self._ranks.count)
        begun = step_of(newest) if newest else 0
        cut_metrics(self._folder, begun)
        return begun

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The library's, whose readers outlast a signal that is sent to every process there is."""
        loader = super().get_train_dataloader()
        if loader.num_workers:
            inner = cast(Any, loader).base_dataloader  # accelerate's loader wraps the one that starts them
            inner.worker_init_fn = Undisturbed(inner.worker_init_fn)
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any] | None:
        if self._lengths is None:
            return super()._get_train_sampler(train_dataset)
        at_once = self._keys.batch * self._keys.accumulate * self._ranks.count
        return ByLength(self._lengths, at_once, self.args.seed)

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: Any = None) -> nn.Module:
        if self.extra is None or not training or model is not self.model:
            return super()._wrap_model(model, training, dataloader)
        return self.accelerator.prepare_model(Joint(model, self.extra, self._loss))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Muon for the layers' matrices and AdamW for the rest, or AdamW for all, as the stage's keys say."""
        if cast(Any, self).optimizer is None:
            named = [*cast("nn.Module", model or self.model).named_parameters()]
            named += [*self.extra.named_parameters()] if self.extra else []
            trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
            made = MuonAdamW(trained, self._keys)
            # A library that shards an optimizer's state knows PyTorch's own.
            self.optimizer = made if len(made.parts) > 1 else made.parts[0]
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """The schedule that the stage's keys ask for."""
        if cast(Any, self).lr_scheduler is None:
            found = optimizer or cast(Any, self).optimizer
            self.lr_scheduler = schedule(self._keys, found, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """The targets of all batches of a step. None where every batch is to be averaged by itself."""
        batches = [*read(batch_samples)]
        return self._targets_of(batches, device) if self._keys.averaged == "step" and batches else None

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        counts: Counts | None = num_items_in_batch
        is_joint = self.extra is not None and model is self.model_wrapped
        value, numbers = model(inputs, counts) if is_joint else self._loss(model, inputs, counts)
        if counts is not None:
            value = value * self.accelerator.num_processes
        for name, number in numbers.items():
            self._numbers.setdefault(name, []).append(number)
        return (value, {}) if return_outputs else value

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass. Errors: FloatingPointError on a loss that is not finite."""
        value = super().training_step(model, inputs, num_items_in_batch)
        if not bool(torch.isfinite(value)):
            raise FloatingPointError(self._not_finite("loss", float(value)))
        return value

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        # Heads beside the model are not clipped, nor do they count in its norm.
        norm = super()._clip_grad_norm(model if self.extra is None else self.model)
        if norm is not None and not bool(torch.isfinite(torch.as_tensor(norm))):
            raise FloatingPointError(self._not_finite("gradient norm", float(norm)))
        return norm

    def _not_finite(self, what: str, value: float) -> str:
        last = newest_checkpoint(self._folder)
        kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
        return f"the {what} is {value} at step {self.state.global_step} of {self._folder.name}; {kept}"

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the stage's numbers, averaged since the last log, and writes a line of ``metrics.jsonl``."""
        if "validation_loss" not in logs:
            logs |= self._means()
        super().log(logs, start_time)
        if self.is_world_process_zero():
            add_metrics(self._folder, self.state.global_step, logs)

    def _means(self) -> dict[str, float]:
        """The stage's numbers since the last log, averaged over steps and ranks."""
        found: dict[str, list[float]] = {}
        for numbers in self._ranks.gathered(self._numbers):
            for name, values in numbers.items():
                found.setdefault(name, []).extend(values)
        self._numbers.clear()
        return {name: sum(values) / len(values) for name, values in found.items() if values}

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._partial) if self._saving else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes to a temporary folder, then renames it; older checkpoints go once the new one stands. Every rank
        writes the state of its random numbers, the first one all else."""
        self._ranks.first(lambda: check_disk(self._folder, _bytes_of(self.model, self.extra) * CHECKPOINT_COPIES))
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving = False
        self._ranks.wait()
        self._ranks.first(self._publish)

    def _publish(self) -> None:
        """Renames the temporary folder, now whole, and removes older checkpoints."""
        name = f"checkpoint-{self.state.global_step}"
        older = checkpoints(self._folder)
        if not (self._folder / name).exists():
            os.replace(self._partial / name, self._folder / name)
        shutil.rmtree(self._partial, ignore_errors=True)
        for folder in older:
            if folder.name != name:
                shutil.rmtree(folder)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the library has it; the other ranks wait until the first one has written."""
        super().save_model(output_dir, _internal_call)
        self._ranks.wait()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.extra is not None and self.args.should_save and output_dir is not None:
            save_file(self.extra.state_dict(), Path(output_dir) / EXTRA)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        plain = type(self.model) if isinstance(self.model, PreTrainedModel) else None
        if plain is None or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            own = cast("PreTrainedModel", self.model)
            own.load_state_dict(plain.from_pretrained(folder, dtype=own.dtype).state_dict())
        if self.extra is not None:
            self.extra.load_state_dict(load_file(folder / EXTRA))


CHECKPOINT_COPIES = 4
"""A checkpoint's size in copies of the weights: they, two moments, and one to spare."""


def _bytes_of(*modules: Any) -> int:
    return sum(p.numel() * p.element_size() for module in modules if module is not None for p in module.parameters())


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoint folders, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step behind which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def newest_checkpoint(folder: Path) -> Path | None:
    """The one to resume from; None before the first."""
    return next(reversed(checkpoints(folder)), None)


def check_count(checkpoint: Path, ranks: int) -> None:
    """Errors: InputError for a checkpoint by another number of ranks: other batches would follow, and other rates."""
    # Every rank writes a file of its random numbers' state.
    written = len([*checkpoint.glob("rng_state*.pth")])
    if not written:
        raise InputError(f"{checkpoint} is not whole: there is no rng_state.pth in it; remove it", "runs")
    if written != ranks:
        raise InputError(
            f"{checkpoint} was written by a run in {written} processes, and this one has {ranks}: start {written}, "
            f"or remove {checkpoint} to begin again",
            "runs",
        )


def prepare_trainable(model: PreTrainedModel, keys: TrainingKeys) -> None:
    """Freezes what is not trained and compiles the text model's layers one by one (few shapes, compiled once each).

    With adapters (`cos.training.learning.adapters`) it is settled already what is trained.
    """
    if keys.lora is None:
        parts = trained_parts(keys)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(part_of(name) in parts)
    if keys.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if keys.compile:
        for layer in text_layers(model):
            layer.compile(dynamic=False)


def text_layers(model: nn.Module) -> list[nn.Module]:
    """The decoder layers of an image-text-to-text model's text part."""
    for name, module in model.named_modules():
        if name.endswith("language_model.layers"):
            return [*cast("nn.ModuleList", module)]
    raise ValueError(f"{type(model).__name__} has no language_model.layers")


class Bar(TrainerCallback):
    """A progress bar with the newest numbers."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: tqdm[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self._name, mininterval=5)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self._bar is not None and logs:
            shown = {name: f"{number:.3g}" for name, number in logs.items() if isinstance(number, float)}
            self._bar.set_postfix(
                {k: v for k, v in shown.items() if k not in ("epoch", "learning_rate")}, refresh=False
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.close()
