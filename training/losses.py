"""The losses of SFT and of the PRM, over logits and a collator's targets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cos.training.encode import IGNORED, UNJUDGED, model_inputs


def turn_logits(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Logits from the place before the first turn on: float32 (batch, length - first, vocabulary)."""
    kept = batch["input_ids"].shape[1] - int(batch["first"])
    return model(**model_inputs(batch), logits_to_keep=kept, use_cache=False).logits.float()


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the tokens that should come next; ``targets`` (batch, length) are not shifted yet."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORED)


def exact_chains(logits: Tensor, targets: Tensor) -> Tensor:
    """Whether every token of a chain is the likeliest, given the ones before it: bool (batch,)."""
    ahead = targets[:, 1:]
    return ((logits[:, :-1].argmax(-1) == ahead) | (ahead == IGNORED)).all(1)


def sft_loss(model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Mapping[str, float]]:
    """Next-token loss on the assistant's turn alone."""
    logits = turn_logits(model, batch)
    targets = batch["should"][:, int(batch["first"]) :]
    return next_token_loss(logits, targets), {"exact_chains": exact_chains(logits, targets).float().mean().item()}


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

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Mapping[str, float]]:
        """Errors: ValueError for a batch without a single labelled tag."""
        logits = turn_logits(model, batch)
        turn = {name: batch[name][:, int(batch["first"]) :] for name in ("verdict", "is_tag", "should")}
        value, numbers = self.over(label_margins(logits, self.labels), turn)
        if self.lm_weight:
            reading = next_token_loss(logits, turn["should"])
            value, numbers = value + self.lm_weight * reading, {**numbers, "reading": reading.item()}
        return value, numbers

    def over(self, margins: Tensor, turn: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, float]]:
        """The loss at the labelled tags alone."""
        taught = turn["is_tag"] & (turn["verdict"] != UNJUDGED)
        if not bool(taught.any()):
            raise ValueError("a batch has no labelled tag; its chains cannot teach a PRM")
        found, wanted = margins[taught], turn["verdict"][taught]
        each = functional.binary_cross_entropy_with_logits(found, wanted, reduction="none")
        weight = torch.where(_is_last_tag(turn["is_tag"])[taught], self.answer_weight, 1.0)
        weight = weight * (1 + (self.bad_weight - 1) * (1 - wanted))
        return (each * weight).sum() / weight.sum(), tag_numbers(found, wanted)


def tag_numbers(margins: Tensor, wanted: Tensor) -> Mapping[str, float]:
    """Accuracy over tags, and the share of bad ones that were found."""
    right = (margins > 0) == (wanted > 0.5)
    bad = wanted < 0.5
    numbers = {"tag_accuracy": right.float().mean().item()}
    return {**numbers, "bad_found": right[bad].float().mean().item()} if bool(bad.any()) else numbers


def _is_last_tag(is_tag: Tensor) -> Tensor:
    """Each chain's last tag: bool (batch, length)."""
    behind = is_tag.flip(1).long().cumsum(1).flip(1)
    return is_tag & (behind == 1)
