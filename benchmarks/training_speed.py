"""How fast the training pipeline is: its SFT stage against a loop written by hand for the same model.

Both train the same weights on the same batches, at the same precision and with the same threads, in turns: the
pipeline takes a step, its clock is stopped, the hand loop takes the same batch, and so on. The pipeline's clock sees
all it does for a step (drawing ledgers, rendering, processing images, padding, schedule, log); the hand loop is
handed finished tensors. Neither writes a checkpoint. The loop is `cos.benchmarks.hand_loop`.
"""

import random
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerCallback

from cos.benchmarks.hand_loop import HandLoop
from cos.benchmarks.report import Facts
from cos.checkpoints import resolve
from cos.evaluation.statistics import RESAMPLES, Interval
from cos.ledger.mnist import Digits
from cos.ledger.render import Renderer
from cos.ledger.samples import GROUP, LedgerData
from cos.ledger.task import Problem, derive
from cos.search.errors import InputError
from cos.training.config.keys import TrainingKeys
from cos.training.learning.encode import Collator, Sample, Turn, TurnEncoder, load_checkpoint, model_inputs
from cos.training.learning.losses import SftLoss
from cos.training.learning.precision import computes_bf16
from cos.training.learning.trainer import StageTrainer
from cos.training.runs.folder import StageContext

MODEL = "cos-tiny"
RATE = 1e-6
"""So small that the weights of both stay alike and their losses can be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much is measured."""

    batch: int = 32
    warmup: int = 3
    """Rounds that are not counted: they compile. (Nor is a later one that meets a length for the first time.)"""
    repetitions: int = 10
    """Further rounds, each of `GROUP` batches, which are drawn together and span all lengths."""
    threads: int = 2
    compiled: bool = True


@dataclass(slots=True)
class Lap:
    """One round of both: seconds, and what they were spent on."""

    pipeline_s: float = 0.0
    hand_s: float = 0.0
    pipeline_cpu_s: float = 0.0
    hand_cpu_s: float = 0.0
    tokens: int = 0
    """Tokens of the turns that were taught, padding and prompts not counted."""
    compiles: bool = False
    """Whether a length came up for the first time."""

    @property
    def ratio(self) -> float:
        """The hand loop's tokens a second over the pipeline's."""
        return self.pipeline_s / self.hand_s


@dataclass(slots=True)
class Turns(TrainerCallback):
    """Stops the pipeline's clock after each step and lets the hand loop take the same batch."""

    hand: Callable[[Mapping[str, Tensor]], float]
    batches: deque[dict[str, Tensor]] = field(default_factory=deque[dict[str, Tensor]])
    laps: list[Lap] = field(default_factory=list[Lap])
    hand_losses: list[float] = field(default_factory=list[float])
    _lengths: set[int] = field(default_factory=set[int])
    _since: tuple[float, float] = (0.0, 0.0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The pipeline begins."""
        self._since = _clocks()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After every step it is the hand loop's turn; after every round a lap is complete."""
        between = _clocks()
        batch = self.batches.popleft()
        length = batch["input_ids"].shape[1]
        begin = _clocks()
        self.hand_losses.append(self.hand(batch))
        end = _clocks()
        if len(self.hand_losses) % GROUP == 1:
            self.laps.append(Lap())
        lap = self.laps[-1]
        lap.pipeline_s += between[0] - self._since[0]
        lap.pipeline_cpu_s += between[1] - self._since[1]
        lap.hand_s += end[0] - begin[0]
        lap.hand_cpu_s += end[1] - begin[1]
        lap.tokens += int(batch["tokens"])
        lap.compiles |= length not in self._lengths
        self._lengths.add(length)
        self._since = _clocks()


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def measure(load: Load, seed: int) -> Facts:
    """Tokens a second of both, and their ratio with its 95 % bootstrap interval over rounds."""
    before = torch.get_num_threads()
    torch.set_num_threads(load.threads)
    try:
        return _measure(load, seed)
    finally:
        torch.set_num_threads(before)


def _measure(load: Load, seed: int) -> Facts:
    folder = resolve("policy", MODEL)
    model, processor = load_checkpoint(folder)
    encoder = TurnEncoder(processor.tokenizer)
    collate = Collator(processor, LENGTHS)
    steps = GROUP * (load.warmup + load.repetitions)
    hand = HandLoop(load_checkpoint(folder)[0], RATE, compiled=load.compiled)
    turns = Turns(hand.step)

    def kept(samples: Sequence[Sample]) -> dict[str, Tensor]:
        batch = collate(samples)
        inputs = model_inputs(batch)
        tokens = torch.tensor(sum(len(sample.turn.ids) for sample in samples))
        turns.batches.append({**inputs, "labels": batch["should"], "tokens": tokens})
        return batch

    with tempfile.TemporaryDirectory() as scratch:
        trainer = StageTrainer(
            model,
            SftLoss(),
            _ledgers(encoder, steps * load.batch, load.batch, seed),
            kept,
            _keys(load, steps),
            StageContext(folder=Path(scratch), runs=Path(scratch), seed=seed, threads=load.threads, skip_bad=False),
            in_order=True,
        )
        trainer.add_callback(turns)
        trainer.run()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    counted = [lap for lap in turns.laps[load.warmup :] if not (lap.compiles and load.compiled)]
    return training_facts(counted, load, seed, losses, turns.hand_losses)


def training_facts(
    laps: Sequence[Lap], load: Load, seed: int, losses: Sequence[float], hand_losses: Sequence[float]
) -> Facts:
    """The measurement as a flat JSON object. Errors: InputError without a single counted round."""
    if not laps:
        raise InputError(f"every one of {load.repetitions} rounds met a new length; ask for more", "repetitions")
    ratios = [lap.ratio for lap in laps]
    interval = bootstrap_median(ratios, seed)
    tokens = sum(lap.tokens for lap in laps)
    return {
        "over_hand_loop": median(ratios),
        "ci_low": interval.low,
        "ci_high": interval.high,
        "over_hand_loop_cpu": median(lap.pipeline_cpu_s / lap.hand_cpu_s for lap in laps),
        "pipeline_tokens_per_s": tokens / sum(lap.pipeline_s for lap in laps),
        "hand_tokens_per_s": tokens / sum(lap.hand_s for lap in laps),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "loss_difference": max(abs(ours - theirs) for ours, theirs in zip(losses, hand_losses, strict=True)),
        "tokens": tokens,
        "repetitions": len(laps),
        "steps": GROUP * len(laps),
        "batch": load.batch,
        "threads": load.threads,
        "compiled": load.compiled,
        "precision": "bf16" if computes_bf16() else "fp32",
        "seed": seed,
    }


def bootstrap_median(values: Sequence[float], seed: int) -> Interval:
    """Percentile bootstrap of a median. A single value is its own interval."""
    drawn = np.random.default_rng(seed).choice(np.asarray(values, dtype=float), (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return Interval(float(low), float(high))


def _ledgers(encoder: TurnEncoder, samples: int, batch: int, seed: int) -> LedgerData:
    """Gold ledgers, drawn with noise for digits: what they show does not matter to the clock."""
    rng = np.random.default_rng(seed)
    digits = Digits(rng.integers(0, 255, (200, 28, 28), np.uint8), np.arange(200, dtype=np.uint8) % 10)

    def write(problem: Problem, _: random.Random) -> Turn:
        gold = derive(problem)
        return encoder.chain(gold.steps, gold.answer)

    return LedgerData(Renderer(digits), write, samples, batch, seed)


LENGTHS = (192, 256, 320, 384, 448)
"""Lengths that both pad to."""


def _keys(load: Load, steps: int) -> TrainingKeys:
    """SFT as the recipe cos-tiny has it, but for its length and learning rate."""
    return TrainingKeys(
        batch=load.batch,
        steps=steps,
        learning_rate=RATE,
        optimizer="muon",
        train_projector=False,
        compile=load.compiled,
        log_every=1,
        save_every=10 * steps,
    )
