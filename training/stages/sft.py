"""Stage `sft`: step-structured fine-tuning of a policy (paper, section 3.2); loss on the assistant's turn alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from cos.evaluation.failures import naming, of_stage
from cos.search.errors import InputError
from cos.training.config.recipe import SftConfig
from cos.training.data.batches import lengths_of
from cos.training.data.lengths import Lengths, fitting, room
from cos.training.data.mixing import mix
from cos.training.data.preflight import Intake, chains_of, training_facts
from cos.training.data.problems import images_of
from cos.training.data.row_data import collator_of, imitated
from cos.training.data.rows import ChainRow
from cos.training.data.splits import claim, digits_of
from cos.training.learning.adapters import merge_lora, with_lora
from cos.training.learning.encode import Collator, Sample, TurnEncoder, load_checkpoint
from cos.training.learning.losses import SftLoss
from cos.training.learning.parts import take_text
from cos.training.learning.quantized import load_base, quantized_by
from cos.training.learning.trainer import StageTrainer
from cos.training.learning.validation import held_out_chains, taken
from cos.training.menu import generated_task
from cos.training.runs.folder import StageContext, StageRun

CHECKED_AT_ONCE = 32


def run_sft(config: SftConfig, context: StageContext) -> None:
    """Trains and writes ``model/``. Errors: InputError, FloatingPointError."""
    with StageRun(context, "sft") as run:
        intake = Intake(context)
        with naming(of_stage(context.folder.name)):
            chains = chains_of(config.data, intake, images=images_of(config, context)) if config.data else []
            held_out = held_out_chains(config, context, intake, chains)
            check_answered([*chains, *held_out])
        asked = (chain.problem for chain in [*chains, *held_out])
        leaks = claim(context, config.trains, asked, digits_of(config.ledger), (config.model, config.text_from))
        model, processor = load_base(context.checkpoint(config.model), config)
        if config.text_from is not None:
            if quantized_by(config) is not None:
                raise InputError("text_from gives text layers in full, and lora.quantize rounds them: drop one", "lora")
            take_text(load_checkpoint(context.checkpoint(config.text_from))[0], model)
        encoder = TurnEncoder(processor.tokenizer)
        with naming(of_stage(context.folder.name)):
            lengths, most = Lengths(processor, encoder, intake.sizes), room(model.config, config.max_tokens)
            chains, held_out = (fitting(rows, lengths, intake, *most) for rows in (chains, held_out))
        mixed = mix(chains, config.data, intake, config, context.seed)
        data = sft_data(config, context, encoder, [chains[place] for place in mixed.order])
        collate = collator_of(processor, config, context)
        trained = with_lora(model, config, processor.tokenizer, context.seed)
        trainer = StageTrainer(
            trained,
            SftLoss(),
            data,
            collate,
            config,
            context,
            in_order=config.ledger is not None,
            held_out=imitated(held_out, encoder) if held_out else None,
            lengths=lengths_of(data, lengths, config),
        )
        whole = trainer.run()
        did = training_facts(trainer.state.log_history, trainer.state.global_step)
        facts = {**taken(intake, held_out), **mixed.facts(), **did, **trainer.validated, **leaks}
        if whole is not None:
            whole = merge_lora(whole, config, context.folder, context.checkpoint(config.model))
            with naming(of_stage(context.folder.name)):
                facts |= exact_on_unseen(whole, collate, encoder, config, context)
        run.finish(whole, processor, facts)


def check_answered(chains: Sequence[ChainRow]) -> None:
    """Errors: InputError naming a chain that ends without an answer, which nobody is to imitate."""
    bare = [chain.id for chain in chains if not chain.answer]
    if bare:
        raise InputError(
            f"{len(bare)} of {len(chains)} chains have no answer, such as {bare[0]!r}: a policy would learn to give "
            "none; take them out (published PRM data are for the stage `prm`)",
            "data",
        )


def sft_data(
    config: SftConfig, context: StageContext, encoder: TurnEncoder, chains: Sequence[ChainRow]
) -> Dataset[Sample]:
    """Gold chains of a generated task without end, or the chains of files."""
    if config.ledger is not None:
        task, seed = generated_task(), config.ledger.seed or context.seed
        task.fetch(context)
        samples = config.batch * config.accumulate * (config.steps or 1) * context.ranks.count
        return task.gold(context, config.ledger.digits, encoder, samples, config.batch, seed)
    return imitated(chains, encoder)


@torch.no_grad()
def exact_on_unseen(
    model: PreTrainedModel, collate: Collator, encoder: TurnEncoder, config: SftConfig, context: StageContext
) -> Mapping[str, float]:
    """Share of gold chains over another split's digits whose every token is the likeliest, given the ones before."""
    if config.ledger is None:
        return {}
    other = "prm" if config.ledger.digits == "policy" else "policy"
    data = generated_task().gold(context, other, encoder, config.checked, CHECKED_AT_ONCE, context.seed + 1)
    model.eval()
    exact = 0.0
    for start in range(0, config.checked, CHECKED_AT_ONCE):
        batch = range(start, min(start + CHECKED_AT_ONCE, config.checked))
        exact += len(batch) * SftLoss()(model, collate(data.__getitems__(batch)))[1]["exact_chains"]
    return {"exact_chains_unseen": exact / config.checked}
