"""What every training stage shares: optimiser, schedule, progress bar, metrics log, checkpoint and resume."""

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

LossFn = Callable[[int], tuple[Tensor, Mapping[str, float]]]
"""``loss(step)``: the loss of that step's batch, and numbers to log."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast a stage trains."""

    folder: Path
    """Where ``state.pt`` (to resume from) and ``metrics.jsonl`` are kept."""
    steps: int
    learning_rate: float
    warmup: int = 100
    weight_decay: float = 0.05
    save_every: int = 100
    clip: float = 1.0

    def rate(self, step: int) -> float:
        """Linear warm-up, then a cosine down to a twentieth."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


HIDDEN = re.compile(r"\.layers?\.\d+\.")
"""What the names of parameters within a layer have in common."""


class _Optimizers:
    """Muon for the matrices of the layers, AdamW for embeddings, heads, gains and biases, at one learning rate.

    Muon scales its updates to the size of AdamW's (``match_rms_adamw``), so that one rate suits both.
    """

    def __init__(self, modules: nn.Module, plan: Plan) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in modules.named_parameters():
            if parameter.requires_grad:
                hidden = parameter.ndim == 2 and HIDDEN.search(name)
                (matrices if hidden else others).append(parameter)
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(
                torch.optim.Muon(
                    matrices, lr=plan.learning_rate, weight_decay=plan.weight_decay, adjust_lr_fn="match_rms_adamw"
                )
            )
        if others:
            self.parts.append(torch.optim.AdamW(others, lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.0))

    def step(self, rate: float) -> None:
        """One update of everything, and its gradients are gone."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()  # pyright: ignore[reportUnknownMemberType]
            part.zero_grad(set_to_none=True)


def _save(path: Path, state: Mapping[str, Any]) -> None:
    """Writes beside, then renames: a kill at any moment leaves a loadable file."""
    beside = path.with_suffix(".tmp")
    torch.save(dict(state), beside)
    os.replace(beside, path)


def train(modules: nn.Module, loss: LossFn, plan: Plan) -> None:
    """Trains ``modules`` in place; resumes from the plan's folder.

    Batches must depend on the step number alone, so that a resumed run equals the uninterrupted one.
    Errors: RuntimeError on a loss that is not finite, before anything is written.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    optimizers = _Optimizers(modules, plan)
    state_file = plan.folder / "state.pt"
    start = 0
    if state_file.exists():
        state = cast(dict[str, Any], torch.load(state_file, weights_only=True))
        modules.load_state_dict(state["modules"])
        for part, saved in zip(optimizers.parts, state["optimizers"], strict=True):
            part.load_state_dict(saved)
        start = int(state["step"])
    bar = tqdm(range(start, plan.steps), initial=start, total=plan.steps, desc=plan.folder.name, mininterval=5)
    with (plan.folder / "metrics.jsonl").open("a", encoding="utf-8") as log:
        for step in bar:
            value, numbers = loss(step)
            if not torch.isfinite(value):
                raise RuntimeError(
                    f"the loss is {value.item()} at step {step} of {plan.folder.name}; last good state: {state_file}"
                )
            value.backward()  # pyright: ignore[reportUnknownMemberType]
            nn.utils.clip_grad_norm_(modules.parameters(), plan.clip)
            optimizers.step(plan.rate(step))
            shown = {"loss": value.item(), **numbers}
            bar.set_postfix({key: f"{number:.3f}" for key, number in shown.items()}, refresh=False)
            log.write(json.dumps({"step": step, "learning_rate": plan.rate(step), **shown}) + "\n")
            if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps:
                log.flush()
                held = [part.state_dict() for part in optimizers.parts]
                _save(state_file, {"modules": modules.state_dict(), "optimizers": held, "step": step + 1})
