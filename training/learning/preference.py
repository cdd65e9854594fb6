"""Direct preference optimisation over pairs of chains: batches, reference log-probabilities and the loss.

Loss, fused head and metrics are TRL's (`DPOTrainer`, whose loss method is called as it stands); trainer, checkpoints
and token ids are ours. `docs/decisions.md` says why TRL's own constructor is not used. The reference is frozen, so what
it says of every chain is computed once, before training, and kept in the stage's folder.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from cos.evaluation.failures import naming, of_row
from cos.evaluation.files import replacing
from cos.search.errors import InputError
from cos.training.learning.encode import IGNORED, Collator, Sample, Turn, TurnEncoder, model_inputs
from cos.training.learning.losses import Batch, Counts, Numbers
from cos.training.learning.trainer import StageTrainer
from cos.training.runs.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cos.training.config.recipe import DpoConfig
    from cos.training.data.rows import PairedChain, PairRow
    from cos.training.runs.folder import StageContext

REFERENCE = "reference.json"
"""Log-probabilities of the reference, in the stage's folder."""
HELD_OUT = "reference-held-out.json"
"""The same for held-out pairs."""


@dataclass(frozen=True, slots=True)
class Preference:
    """Two chains for one question, the better one first, and what the reference says of them."""

    chosen: Sample
    rejected: Sample
    reference: tuple[float, float] = (0.0, 0.0)
    """Summed log-probabilities of both turns."""
    row: str = ""
    """Id of the pair's row, for errors."""


class PairData(Dataset[Preference]):
    """Pairs in the order of their rows."""

    def __init__(
        self,
        rows: Sequence[PairRow],
        encoder: TurnEncoder,
        picture: Callable[[PairRow], Any],
        *,
        first_step: bool = False,
    ) -> None:
        """``picture``: opens a pair's image. ``first_step``: nothing is taught behind the first step in which two
        chains differ. Errors: InputError without a single pair."""
        if not rows:
            raise InputError(
                "there is no pair to train on; lower the stage `pairs`' gap, or sample more chains", "data"
            )
        self.rows = rows
        self._turns = [turns_of(row, encoder, first_step=first_step) for row in rows]
        self._picture = picture
        self._reference: Sequence[tuple[float, float]] = [(0.0, 0.0)] * len(rows)

    def refer(self, reference: Sequence[tuple[float, float]]) -> None:
        """Takes up what the reference says of every pair, in this order."""
        if len(reference) != len(self.rows):
            raise ValueError(f"{len(reference)} reference log-probabilities for {len(self.rows)} pairs")
        self._reference = reference

    @property
    def fingerprint(self) -> str:
        """Digest of every question, picture and token, and of what is taught."""
        digest = hashlib.sha256()
        for row, pair in zip(self.rows, self._turns, strict=True):
            tokens = [(turn.ids, turn.should) for turn in pair]
            digest.update(json.dumps([row.problem.question, row.problem.image, tokens]).encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Preference:
        row = self.rows[index]
        with naming(of_row(row.id)):
            picture = self._picture(row)
        chosen, rejected = (Sample(picture, row.problem.question, turn, row.id) for turn in self._turns[index])
        return Preference(chosen, rejected, self._reference[index], row.id)


def turns_of(row: PairRow, encoder: TurnEncoder, *, first_step: bool) -> tuple[Turn, Turn]:
    """The better chain's turn and the worse one's."""
    chosen, rejected = ((*chain.steps, chain.answer) for chain in (row.chosen, row.rejected))
    alike = sum(1 for _ in takewhile(lambda parts: parts[0] == parts[1], zip(chosen, rejected, strict=False)))

    def turn(chain: PairedChain) -> Turn:
        whole = encoder.chain(chain.steps, chain.answer)
        if not first_step or alike >= len(chain.steps):
            return whole
        taught = sum(map(len, encoder.segments(chain.steps, chain.answer)[: alike + 1]))
        return replace(whole, should=[*whole.should[:taught], *[IGNORED] * (len(whole.ids) - taught)])

    return turn(row.chosen), turn(row.rejected)


class PairCollator:
    """Pairs to one batch: the chosen chains, then the rejected ones, with prompts masked, as TRL's loss takes them."""

    def __init__(self, collate: Collator) -> None:
        self._collate = collate

    def __call__(self, pairs: Sequence[Preference]) -> dict[str, Tensor]:
        """Errors: InputError for a chain longer than the collator allows."""
        batch = self._collate([pair.chosen for pair in pairs] + [pair.rejected for pair in pairs])
        taught = batch["should"] != IGNORED
        reference = torch.tensor([pair.reference for pair in pairs], dtype=torch.float32)
        return {
            **model_inputs(batch),
            "completion_mask": taught.long(),
            "ref_chosen_logps": reference[:, 0],
            "ref_rejected_logps": reference[:, 1],
        }


NOT_THE_MODELS = ("completion_mask", "ref_chosen_logps", "ref_rejected_logps")


def fuse_head(model: PreTrainedModel) -> None:
    """Gives a model TRL's head that returns log-probabilities without keeping logits, and takes its dropout away.

    To be called before adapters are put around the model.
    """
    from trl.trainer.utils import add_fused_lm_head, disable_dropout_in_model

    disable_dropout_in_model(model)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))


@dataclass(frozen=True)
class PreferenceLoss:
    """The loss of a `PreferenceTrainer`, as `cos.training.learning.losses.StageLoss`."""

    trainer: PreferenceTrainer

    def counts(self, batch: Batch) -> Counts:
        """Pairs, and the tokens taught of their better chains."""
        taught: Tensor = batch["completion_mask"]
        pairs = taught.shape[0] // 2
        return {"pairs": torch.tensor(pairs, device=taught.device), "tokens": taught[:pairs, 1:].sum()}

    def __call__(self, model: nn.Module, batch: Batch, counts: Counts | None = None) -> tuple[Tensor, Numbers]:
        """TRL's, which is a mean, each part weighed with this batch's share of the targets."""
        if counts is None:
            return self.trainer.preference_loss(model, batch)
        shares = {name: float(own / counts[name]) for name, own in self.counts(batch).items()}
        return self.trainer.preference_loss(model, batch, shares)


MPO = (("sigmoid", 0.8), ("bco_pair", 0.2))
"""InternVL's mixed preference optimisation: preference and quality; its generation loss is the next-token loss."""


def parts_of(config: DpoConfig) -> list[tuple[str, float, str]]:
    """TRL's name of each part of the loss, its weight, and what it is a mean over: ``pairs`` or ``tokens``."""
    compared = MPO if config.preference == "mpo" else ((config.preference, 1.0),)
    read = [("sft", config.nll_weight, "tokens")] if config.nll_weight else []
    return [*((kind, weight, "pairs") for kind, weight in compared), *read]


class PreferenceTrainer(StageTrainer):
    """A stage's trainer over pairs; the loss is TRL's: DPO or a neighbour, and the chosen chains' next-token loss.
    Every epoch has an order of its own, which follows from the seed.

    Source of the loss: Rafailov et al., arXiv 2305.18290, equation 7. The next-token loss is averaged over the tokens
    of a step's chosen chains (of a batch's, as TRL's ``rpo_alpha``, which the release sets, had it, where the keys say
    ``averaged: micro_batch``; Pang et al., arXiv 2404.19733, equation 1, divide chain by chain).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        data: Dataset[Preference],
        collate: PairCollator,
        config: DpoConfig,
        context: StageContext,
        held_out: Dataset[Preference] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> None:
        loss = PreferenceLoss(self)
        super().__init__(model, loss, data, collate, config, context, held_out=held_out, lengths=lengths)
        # What TRL's loss reads from its trainer.
        self.beta = config.beta
        self._parts = parts_of(config)
        self.loss_types = [kind for kind, _, _ in self._parts]
        self.loss_weights = [weight for _, weight, _ in self._parts]
        self.precompute_ref_logps = True
        self.ld_alpha = None
        self.f_divergence_type = "reverse_kl"
        self.label_smoothing = config.label_smoothing or 0.0
        self.use_weighting = False
        self.aux_loss_enabled = False
        self._tp_size = 1
        self._total_train_tokens = 0
        self._metrics: dict[str, defaultdict[str, list[float]]] = {}

    def preference_loss(
        self, model: nn.Module, batch: Batch, shares: Mapping[str, float] | None = None
    ) -> tuple[Tensor, Numbers]:
        """The mean loss of a batch of pairs, and what else was found about it; log-probabilities in nats a chain.

        ``shares``: what losses over ``pairs`` and over ``tokens`` are multiplied by; 1 unless given.
        """
        from trl.trainer.dpo_trainer import DPOTrainer

        def without_mask(*, attention_mask: Tensor, **inputs: Any) -> Any:
            """TRL counts tokens by it; the model needs none, as padding stands behind and attention is causal."""
            del attention_mask
            return model(**inputs)

        self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
        self.loss_weights = [weight * (shares or {}).get(over, 1.0) for _, weight, over in self._parts]
        counted = {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}
        loss = cast(Any, DPOTrainer)._compute_loss(self, without_mask, counted, False)
        found = {
            name: values[-1]
            for name, values in self._metrics["train" if cast("nn.Module", self.model).training else "eval"].items()
        }
        return loss, self._numbers_of(found, batch["completion_mask"])

    def _numbers_of(self, found: Mapping[str, float], taught: Tensor) -> Mapping[str, float]:
        pairs = taught.shape[0] // 2
        chosen_tokens = max(1, int(taught[:pairs, 1:].sum()))
        return {
            "reward_margin": found["rewards/margins"],
            "reward_accuracy": found["rewards/accuracies"],
            "reward_chosen": found["rewards/chosen"],
            "reward_rejected": found["rewards/rejected"],
            "logprob_chosen": found["logps/chosen"],
            "logprob_rejected": found["logps/rejected"],
            "nll": -found["logps/chosen"] * pairs / chosen_tokens,
            "entropy": found["entropy"],
            # E[log policy - log reference] over chains of the policy that wrote the pairs: nats a chain.
            "kl": (found["rewards/chosen"] + found["rewards/rejected"]) / 2 / self.beta,
        }


@torch.no_grad()
def reference_logprobs(
    model: PreTrainedModel,
    data: PairData,
    collate: Callable[[list[Preference]], Mapping[str, Tensor]],
    batch: int,
    *,
    bf16: bool,
    ranks: Ranks = ALONE,
) -> list[tuple[float, float]]:
    """Summed log-probabilities of both chains of every pair, by a model with a fused head (`fuse_head`). Every rank is
    to call it: each reads a part of the pairs, and all get the whole."""
    from accelerate import PartialState

    device = PartialState(cpu=not torch.cuda.is_available()).device
    cast("nn.Module", model).to(device).eval()

    def read(starts: Sequence[int]) -> Iterator[list[tuple[float, float]]]:
        for start in tqdm(starts, desc="reference", mininterval=5, disable=not ranks.is_first):
            tensors = collate([data[index] for index in range(start, min(start + batch, len(data)))])
            yield _pair_logprobs(model, {name: value.to(device) for name, value in tensors.items()}, bf16)

    return [pair for found in ranks.shared(range(0, len(data), batch), read) for pair in found]


def _pair_logprobs(model: PreTrainedModel, batch: Mapping[str, Tensor], bf16: bool) -> list[tuple[float, float]]:
    inputs = {name: value for name, value in batch.items() if name not in NOT_THE_MODELS}
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
    with torch.autocast(labels.device.type, torch.bfloat16, enabled=bf16):
        logprobs = cast(Any, model)(**inputs, labels=labels, fused_lm_head=True, use_cache=False).log_probs.sum(1)
    chosen, rejected = logprobs.float().chunk(2)
    return list(zip(chosen.tolist(), rejected.tolist(), strict=True))


def cached_reference(
    ranks: Ranks, path: Path, key: str, compute: Callable[[], list[tuple[float, float]]]
) -> list[tuple[float, float]]:
    """What `compute` gives, kept in a file under a ``key`` that names pairs and reference.

    The first rank reads and writes; all ranks compute what is not kept.
    """

    def kept() -> list[tuple[float, float]] | None:
        if not path.is_file():
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
        return [(chosen, rejected) for chosen, rejected in found["logprobs"]] if found["key"] == key else None

    def keep() -> None:
        with replacing(path) as file:
            json.dump({"key": key, "logprobs": computed}, file)

    known = ranks.first(kept)
    if known is not None:
        return known
    computed = compute()
    ranks.first(keep)
    return computed


def weights_digest(model: nn.Module) -> str:
    """Digest of a model's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
