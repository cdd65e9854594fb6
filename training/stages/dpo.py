"""Stage `dpo`: teaches a policy to prefer the better chain of each pair (paper, section 3.4).

The reference never moves: over several rounds it stays the SFT model (`cos.training.stages.rounds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Subset

from cos.evaluation.failures import naming, of_stage
from cos.training.config.recipe import DpoConfig
from cos.training.data.batches import lengths_of
from cos.training.data.lengths import Lengths, fitting, room
from cos.training.data.mixing import mix
from cos.training.data.named_data import rows_named
from cos.training.data.preflight import Intake, pairs_of, training_facts
from cos.training.data.row_data import collator_of, picture_of
from cos.training.data.rows import PairRow
from cos.training.data.splits import claim
from cos.training.learning.adapters import merge_lora, with_lora
from cos.training.learning.encode import TurnEncoder
from cos.training.learning.precision import is_bf16
from cos.training.learning.preference import (
    HELD_OUT,
    REFERENCE,
    PairCollator,
    PairData,
    PreferenceTrainer,
    cached_reference,
    fuse_head,
    reference_logprobs,
    weights_digest,
)
from cos.training.learning.quantized import load_base
from cos.training.learning.sharded import check_loaded_everywhere
from cos.training.learning.validation import check_apart, taken
from cos.training.runs.folder import StageContext, StageRun


def run_dpo(config: DpoConfig, context: StageContext) -> None:
    """Trains and writes ``model/``. Errors: InputError, FloatingPointError."""
    with StageRun(context, "dpo") as run:
        intake = Intake(context)
        with naming(of_stage(context.folder.name)):
            rows = pairs_of(config.pairs, intake)
            held_out = pairs_of(config.validation.data, intake) if config.validation else []
        check_apart((row.problem for row in rows), (row.problem for row in held_out))
        asked = (row.problem for row in [*rows, *held_out])
        leaks = claim(context, "policy", asked, checkpoints=(config.policy, config.reference))
        model, processor = load_base(context.checkpoint(config.policy), config)
        encoder = TurnEncoder(processor.tokenizer)
        with naming(of_stage(context.folder.name)):
            lengths, most = Lengths(processor, encoder, intake.sizes), room(model.config, config.max_tokens)
            rows, held_out = (fitting(some, lengths, intake, *most) for some in (rows, held_out))

        def data_of(some: Sequence[PairRow]) -> PairData:
            return PairData(some, encoder, lambda row: picture_of(row.problem), first_step=config.compared == "step")

        data = data_of(rows)
        measured = data_of(held_out) if config.validation else None
        collate = PairCollator(collator_of(processor, config, context))
        refer(config, context, {REFERENCE: data, HELD_OUT: measured}, collate)
        fuse_head(model)
        torch.manual_seed(context.seed)
        trained = with_lora(model, config, processor.tokenizer, context.seed)
        mixed = mix(rows, config.pairs, intake, config, context.seed)
        drawn = Subset(data, mixed.order)
        counted = lengths_of(data, lengths, config)
        counted = None if counted is None else [counted[place] for place in mixed.order]
        trainer = PreferenceTrainer(trained, drawn, collate, config, context, measured, counted)
        whole = trainer.run()
        did = training_facts(trainer.state.log_history, trainer.state.global_step)
        outcome = {"pairs": len(data), **last_numbers(trainer.state.log_history), **trainer.validated}
        facts = {**outcome, **taken(intake, held_out), **mixed.facts(), **did, **leaks}
        if whole is not None:
            whole = merge_lora(whole, config, context.folder, context.checkpoint(config.policy))
        run.finish(whole, processor, facts)


def refer(config: DpoConfig, context: StageContext, data: Mapping[str, PairData | None], collate: PairCollator) -> None:
    """Tells data what the frozen reference says of every pair: computed once, then read from the stage's folder, from
    the file that they are given under."""
    check_loaded_everywhere()
    reference, _ = load_base(context.checkpoint(config.reference or config.policy), config)
    fuse_head(reference)
    bf16 = is_bf16(config.precision)
    weights = weights_digest(reference)
    for name, pairs in data.items():
        if pairs is None:
            continue
        key = f"{weights} {pairs.fingerprint} {bf16=}"

        def compute(pairs: PairData = pairs) -> list[tuple[float, float]]:
            with naming(of_stage(context.folder.name)):
                read = rows_named(collate)
                return reference_logprobs(reference, pairs, read, config.batch, bf16=bf16, ranks=context.ranks)

        pairs.refer(cached_reference(context.ranks, context.folder / name, key, compute))


SHOWN = ("loss", "reward_margin", "reward_accuracy", "nll", "kl")


def last_numbers(history: Sequence[Mapping[str, Any]]) -> Mapping[str, float]:
    """What was logged last of what matters."""
    logged = next((entry for entry in reversed(history) if "reward_margin" in entry), {})
    return {name: round(float(logged[name]), 4) for name in SHOWN if name in logged}
