"""The losses of SFT and of the PRM, over logits and a collator's targets.

A loss is a sum over targets, divided by a number of targets: the batch's own, or all of an optimiser step's, so that
what is learnt does not hang on how a step is cut into batches (https://unsloth.ai/blog/gradient, transformers'
``num_items_in_batch``). A loss of several parts has a number for each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from cos.training.learning.encode import IGNORED, UNJUDGED, model_inputs

Numbers = Mapping[str, float]
"""What is logged beside a loss."""
Counts = Mapping[str, Tensor]
"""How many targets each part of a loss has, or what they weigh together: scalars."""
Batch = Mapping[str, Any]


class StageLoss(Protocol):
    """What a stage teaches by."""

    def counts(self, batch: Batch) -> Counts:
        """How many targets a batch has, part by part; the same parts for every batch."""
        ...

    def __call__(self, model: nn.Module, batch: Batch, counts: Counts | None = None) -> tuple[Tensor, Numbers]:
        """The sum over a batch's targets, part by part divided by ``counts`` (the batch's own unless given, which is
        the mean); and numbers to log, which are means of this batch."""
        ...


def turn_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Logits from the place before the first turn on: float32 (batch, length - first, vocabulary)."""
    kept = batch["input_ids"].shape[1] - int(batch["first"])
    return model(**model_inputs(batch), logits_to_keep=kept, use_cache=False).logits.float()


def next_tokens(targets: Tensor) -> Tensor:
    """How many tokens are taught; ``targets`` (batch, length) are not shifted yet."""
    return (targets[:, 1:] != IGNORED).sum()


def next_token_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropy over the tokens that should come next; ``targets`` (batch, length) are not shifted."""
    return functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )


def over(total: Tensor, count: Tensor) -> Tensor:
    """A sum over targets divided by their number; 0 where there are none."""
    return total / torch.where(count > 0, count, 1)


def exact_chains(logits: Tensor, targets: Tensor) -> Tensor:
    """Whether every token of a chain is the likeliest, given the ones before it: bool (batch,)."""
    ahead = targets[:, 1:]
    return ((logits[:, :-1].argmax(-1) == ahead) | (ahead == IGNORED)).all(1)


@dataclass(frozen=True)
class SftLoss:
    """Next-token loss on the assistant's turn alone."""

    def counts(self, batch: Batch) -> Counts:
        """Tokens taught."""
        return {"tokens": next_tokens(batch["should"])}

    def __call__(self, model: nn.Module, batch: Batch, counts: Counts | None = None) -> tuple[Tensor, Numbers]:
        """As `StageLoss`."""
        logits = turn_logits(model, batch)
        targets = batch["should"][:, int(batch["first"]) :]
        tokens = (self.counts(batch) if counts is None else counts)["tokens"]
        value = over(next_token_sum(logits, targets), tokens)
        return value, {"exact_chains": exact_chains(logits, targets).float().mean().item()}


def label_margins(logits: Tensor, labels: tuple[int, int]) -> Tensor:
    """logit(good) - logit(bad) at every place: (batch, length); its sigmoid is the PRM score."""
    return logits[..., labels[0]] - logits[..., labels[1]]


@dataclass(frozen=True)
class LabelLoss:
    """Binary cross-entropy over the two label logits at the tag itself, unshifted (paper, eq. 1; released code,
    modeling_internvl_prm.py), in which every tag weighs the same unless ``answer_weight`` says otherwise."""

    labels: tuple[int, int]
    """Ids of good and bad."""
    answer_weight: float = 1.0
    """Weight of a chain's last tag; those of steps weigh 1."""
    bad_weight: float = 1.0
    """Weight of bad tags; good ones weigh 1."""
    lm_weight: float = 0.0
    """Weight of a next-token loss beside it, which keeps the model reading."""

    def counts(self, batch: Batch) -> Counts:
        """What the judged tags weigh together, and the tokens of the loss beside them."""
        return {"tags": self._weights(batch).sum(), "reading": next_tokens(batch["should"])}

    def __call__(self, model: nn.Module, batch: Batch, counts: Counts | None = None) -> tuple[Tensor, Numbers]:
        """As `StageLoss`. Errors: ValueError where no tag is labelled."""
        logits = turn_logits(model, batch)
        own = self.counts(batch)
        by = own if counts is None else counts
        turn = {name: batch[name][:, int(batch["first"]) :] for name in ("verdict", "is_tag", "should")}
        value, numbers = self.over(label_margins(logits, self.labels), turn, by["tags"])
        if self.lm_weight:
            reading = next_token_sum(logits, turn["should"])
            numbers = {**numbers, "reading": over(reading, own["reading"]).item()}
            value = value + self.lm_weight * over(reading, by["reading"])
        return value, numbers

    def over(self, margins: Tensor, turn: Batch, weight: Tensor | None = None) -> tuple[Tensor, Numbers]:
        """The loss at the labelled tags alone, divided by ``weight``: what these tags weigh together unless given.

        Errors: ValueError where that is nothing.
        """
        each = self._weights(turn)
        weight = each.sum() if weight is None else weight
        if not bool(weight > 0):
            raise ValueError("a batch has no labelled tag; its chains cannot teach a PRM")
        taught = _is_judged(turn)
        found, wanted = margins[taught], turn["verdict"][taught]
        losses = functional.binary_cross_entropy_with_logits(found, wanted, reduction="none")
        return (losses * each[taught]).sum() / weight, tag_numbers(found, wanted)

    def _weights(self, turn: Batch) -> Tensor:
        """What each place weighs: 0 where there is no judged tag."""
        weight = torch.where(_is_last_tag(turn["is_tag"]), self.answer_weight, 1.0)
        weight = weight * (1 + (self.bad_weight - 1) * (1 - turn["verdict"]))
        return torch.where(_is_judged(turn), weight, 0.0)


def tag_numbers(margins: Tensor, wanted: Tensor) -> Numbers:
    """Accuracy over tags, and the share of bad ones that were found; nothing where there are none."""
    right = (margins > 0) == (wanted > 0.5)
    bad = wanted < 0.5
    numbers = {"tag_accuracy": right.float().mean().item()} if len(right) else {}
    return {**numbers, "bad_found": right[bad].float().mean().item()} if bool(bad.any()) else numbers


def _is_judged(turn: Batch) -> Tensor:
    return turn["is_tag"] & (turn["verdict"] != UNJUDGED)


def _is_last_tag(is_tag: Tensor) -> Tensor:
    """Each chain's last tag: bool (batch, length)."""
    behind = is_tag.flip(1).long().cumsum(1).flip(1)
    return is_tag & (behind == 1)
