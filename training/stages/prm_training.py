"""Stage `prm`: a process reward model from labelled chains (paper, section 3.3).

Chains come as rows with labels, or without end from a generated task. With ``judging_layers`` a small
model gets layers of its own for judging (`cos.training.learning.auxiliary_heads`); without, only labels are taught
(as in the paper).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from cos.checkpoints import resolve
from cos.evaluation.failures import naming, of_stage
from cos.search.errors import InputError
from cos.training.config.recipe import PrmConfig
from cos.training.data.batches import lengths_of
from cos.training.data.generated import Samples
from cos.training.data.lengths import Lengths, fitting, room
from cos.training.data.mixing import mix
from cos.training.data.preflight import Intake, chains_of, training_facts
from cos.training.data.problems import images_of
from cos.training.data.row_data import RowData, collator_of, good_to_bad, judged
from cos.training.data.rows import ChainRow
from cos.training.data.splits import claim, digits_of
from cos.training.learning.adapters import merge_lora, with_lora
from cos.training.learning.auxiliary_heads import LAYERS, AuxiliaryHeads, AuxiliaryLoss, deepen
from cos.training.learning.encode import Sample, TurnEncoder
from cos.training.learning.losses import LabelLoss
from cos.training.learning.quantized import load_base
from cos.training.learning.trainer import StageTrainer
from cos.training.learning.validation import held_out_chains, taken
from cos.training.menu import generated_task
from cos.training.runs.folder import StageContext, StageRun

HEADS = "heads.safetensors"
"""The judging layers' throw-away heads, in the stage's folder: for a stage that trains those layers further."""


def run_prm(config: PrmConfig, context: StageContext) -> None:
    """Trains and writes ``model/``. Errors: InputError (labels that do not line up with tags), FloatingPointError."""
    with StageRun(context, "prm") as run:
        intake = Intake(context)
        with naming(of_stage(context.folder.name)):
            chains = chains_of(config.chains, intake, images=images_of(config, context)) if config.chains else []
            held_out = [] if config.ledger is not None else held_out_chains(config, context, intake, chains)
        asked = (chain.problem for chain in [*chains, *held_out])
        leaks = claim(context, "prm", asked, digits_of(config.ledger), (config.model,))
        checkpoint = resolve("prm", context.checkpoint(config.model))
        model, processor = load_base(checkpoint, config)
        encoder = TurnEncoder(processor.tokenizer)
        with naming(of_stage(context.folder.name)):
            lengths = Lengths(processor, encoder, intake.sizes, tagged=True)
            most = room(model.config, config.max_tokens)
            chains, held_out = (fitting(rows, lengths, intake, *most) for rows in (chains, held_out))
        bare = unlabelled(chains, config)
        if bare and len(chains) > bare["unlabelled"]:
            chains = [chain for chain in chains if config.labels in chain.labels]
        mixed = mix(chains, config.chains, intake, config, context.seed)
        chains = [chains[place] for place in mixed.order]
        label = LabelLoss(encoder.labels, config.answer_weight, bad_weight(config, chains), config.lm_weight)
        loss: Any = label
        heads = None
        torch.manual_seed(context.seed)
        if config.judging_layers:
            model, heads = with_judging_layers(model, config, context)
            loss = AuxiliaryLoss(heads, label, tag_weight=config.tag_weight, stream_noise=config.stream_noise)
        data = prm_data(config, context, encoder, chains)
        collate = collator_of(processor, config, context)
        trained = with_lora(model, config, processor.tokenizer, context.seed)
        in_order = isinstance(data, Alternating)
        measured = rows_judged(config, encoder, held_out) if held_out else None
        trainer = StageTrainer(
            trained,
            loss,
            data,
            collate,
            config,
            context,
            extra=heads,
            in_order=in_order,
            held_out=measured,
            lengths=lengths_of(data, lengths, config),
        )
        whole = trainer.run()
        did = training_facts(trainer.state.log_history, trainer.state.global_step)
        facts = {**taken(intake, held_out), **bare, **mixed.facts(), **did, **trainer.validated, **leaks}
        if whole is not None:
            whole = merge_lora(whole, config, context.folder, checkpoint)
            if heads is not None:
                save_file(heads.state_dict(), context.folder / HEADS)
        run.finish(whole, processor, facts)


def unlabelled(chains: Sequence[ChainRow], config: PrmConfig) -> dict[str, int]:
    """For ``done.json``: how many chains were left out as they have no labels of the source that is taught."""
    bare = 0 if config.ledger is not None else sum(config.labels not in chain.labels for chain in chains)
    return {"unlabelled": bare} if bare else {}


def with_judging_layers(
    model: PreTrainedModel, config: PrmConfig, context: StageContext
) -> tuple[PreTrainedModel, AuxiliaryHeads]:
    """New judging layers with new heads, or those of an earlier stage. Errors: InputError (no such heads)."""
    text = cast(Any, model).config.text_config
    heads = AuxiliaryHeads(text.hidden_size, text.vocab_size)
    if config.judging_heads is None:
        return deepen(model, LAYERS), heads
    path = context.resolve(config.judging_heads)
    if not path.is_file():
        raise InputError(
            f"there are no heads at {path}; give the {HEADS} of a `prm` stage that is done", "judging_heads"
        )
    heads.load_state_dict(load_file(path))
    return model, heads


def prm_data(
    config: PrmConfig, context: StageContext, encoder: TurnEncoder, rows: Sequence[ChainRow]
) -> Dataset[Sample]:
    """Rows alone, or a generated task's imperfect chains and rows by turns."""
    if config.ledger is None:
        return rows_judged(config, encoder, rows)
    task, seed = generated_task(), config.ledger.seed or context.seed
    task.fetch(context)
    samples = config.batch * config.accumulate * (config.steps or 1) * context.ranks.count
    drawn = task.imperfect(context, config.ledger.digits, encoder, samples, config.batch, seed)
    # Rows beside them are judged as they are: exactly, at every token.
    row_data = RowData(sorted(rows, key=lambda row: (len(row.steps), row.id)), partial(task.checked_turn, encoder))
    return Alternating(drawn, row_data, config.batch, seed, config.row_batches)


def rows_judged(config: PrmConfig, encoder: TurnEncoder, rows: Sequence[ChainRow]) -> Dataset[Sample]:
    """Labelled rows as the keys want them taught."""
    soft = config.target == "soft"
    return judged(rows, encoder, config.labels, soft=soft, until_error=config.until_error)


def bad_weight(config: PrmConfig, rows: Sequence[ChainRow]) -> float:
    """The weight of bad tags: as given, or so that they count as much as good ones.

    Errors: InputError for both, or with a ledger, whose chains have no end to be counted.
    """
    if config.ledger is not None and (config.balanced or config.until_error):
        raise InputError("balanced and until_error are for labelled rows alone; leave them out with a ledger", "prm")
    if not config.balanced:
        return config.bad_weight
    if config.bad_weight != 1:
        raise InputError("bad_weight follows from the labels where balanced is set; leave one of them out", "balanced")
    soft = config.target == "soft"
    return good_to_bad(rows, config.labels, soft=soft, until_error=config.until_error)


class Alternating(Dataset[Sample]):
    """By turns a batch of generated chains and ``row_batches`` of rows; rows of a batch are alike in length."""

    def __init__(self, drawn: Samples, rows: RowData, batch: int, seed: int, row_batches: int) -> None:
        """``rows``: by length. ``row_batches``: batches of them to one of ``drawn``."""
        self._drawn, self._rows, self._batch, self._seed, self._turns = drawn, rows, batch, seed, row_batches + 1

    def __len__(self) -> int:
        return len(self._drawn)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """A batch at once."""
        number = indices[0] // self._batch
        if not len(self._rows) or number % self._turns == 0:
            return self._drawn.__getitems__(indices)
        start = random.Random(f"{self._seed}/{number}").randrange(max(1, len(self._rows) - len(indices) + 1))
        return [self._rows[place] for place in range(start, min(start + len(indices), len(self._rows)))]
