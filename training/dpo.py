"""Stage `dpo`: teaches a policy to prefer the better chain of each pair (paper, section 3.4).

The reference never moves: over several rounds it stays the SFT model (`cos.training.rounds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from cos.training.adapters import merge_lora, with_lora
from cos.training.encode import Collator, TurnEncoder, load_checkpoint
from cos.training.failures import naming, of_stage
from cos.training.folder import StageContext, StageRun
from cos.training.named_data import rows_named
from cos.training.precision import is_bf16
from cos.training.preference import (
    PairCollator,
    PairData,
    PreferenceTrainer,
    cached_reference,
    fuse_head,
    reference_logprobs,
    weights_digest,
)
from cos.training.recipe import DpoConfig
from cos.training.row_data import read_picture
from cos.training.rows import PairRow, read_rows
from cos.training.sharded import check_loaded_everywhere
from cos.training.splits import claim


def run_dpo(config: DpoConfig, context: StageContext) -> None:
    """Trains and writes ``model/``. Errors: InputError, FloatingPointError."""
    with StageRun(context, "dpo") as run:
        rows = [
            row for path in config.pairs for row in read_rows(context.resolve(path), PairRow, skip_bad=context.skip_bad)
        ]
        asked = (row.problem for row in rows)
        leaks = claim(context, "policy", asked, checkpoints=(config.policy, config.reference))
        model, processor = load_checkpoint(context.checkpoint(config.policy))
        encoder = TurnEncoder(processor.tokenizer)
        data = PairData(
            rows,
            encoder,
            lambda row: read_picture(row.problem.image),
            context.seed,
            first_step=config.compared == "step",
        )
        collate = PairCollator(Collator(processor, config.length_buckets, config.max_tokens))
        data.refer(reference_of(config, context, data, collate))
        fuse_head(model)
        torch.manual_seed(context.seed)
        trained = with_lora(model, config.lora)
        trainer = PreferenceTrainer(trained, data, collate, config, context)
        whole = trainer.run()
        outcome = {"pairs": len(data), **last_numbers(trainer.state.log_history), **leaks}
        run.finish(None if whole is None else merge_lora(whole), processor, outcome)


def reference_of(
    config: DpoConfig, context: StageContext, data: PairData, collate: PairCollator
) -> Sequence[tuple[float, float]]:
    """What the frozen reference says of every pair: computed once, then read from the stage's folder."""
    check_loaded_everywhere()
    reference, _ = load_checkpoint(context.checkpoint(config.reference or config.policy))
    fuse_head(reference)
    bf16 = is_bf16(config.precision)
    key = f"{weights_digest(reference)} {data.fingerprint} {bf16=}"

    def compute() -> list[tuple[float, float]]:
        with naming(of_stage(context.folder.name)):
            return reference_logprobs(reference, data, rows_named(collate), config.batch, bf16=bf16)

    return cached_reference(context, key, compute)


SHOWN = ("loss", "reward_margin", "reward_accuracy", "nll", "kl")


def last_numbers(history: Sequence[Mapping[str, Any]]) -> Mapping[str, float]:
    """What was logged last of what matters."""
    logged = next((entry for entry in reversed(history) if "reward_margin" in entry), {})
    return {name: round(float(logged[name]), 4) for name in SHOWN if name in logged}
