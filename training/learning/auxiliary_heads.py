"""Judging layers: how a small reader learns to judge.

A verdict is three skills on top of each other: know what should stand here, tell it from what does, remember. Each is
simple for one layer given the one below, and none is found by gradient descent while the ones below are missing. So
each layer above the reader has a loss of its own, by heads that are thrown away; the language-model loss keeps the
reader's layers reading; and a verdict at every token says where a chain went wrong.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import InternVLConfig, InternVLForConditionalGeneration, PreTrainedModel

from cos.training.learning.encode import IGNORED, UNJUDGED
from cos.training.learning.losses import (
    Batch,
    Counts,
    LabelLoss,
    Numbers,
    label_margins,
    next_token_sum,
    next_tokens,
    over,
)

LAYERS = 3
"""Judging layers above the reader's."""

DEPARTURES = 5.0
"""Weight of the departures' plain mean loss, which is small (few tokens depart), beside the mean of both kinds' means:
the first makes the layer sure of itself, the second gets it off the ground."""


class AuxiliaryHeads(nn.Module):
    """The heads that are thrown away after training."""

    def __init__(self, width: int, words: int) -> None:
        super().__init__()
        self.here = nn.Linear(width, words)
        self.own = nn.Linear(width, words)
        self.departs = nn.Linear(width, 1)


@dataclass(frozen=True)
class AuxiliaryLoss:
    """All losses of a reader with `LAYERS` judging layers above it. For a Qwen2 text model."""

    heads: AuxiliaryHeads
    label: LabelLoss
    reading_weight: float = 1.0
    comparing_weight: float = 1.0
    dense_weight: float = 1.0
    tag_weight: float = 0.5
    stream_noise: float = 0.0
    """Relative noise on the residual stream, see `residual_streams`."""

    def counts(self, batch: Batch) -> Counts:
        """What the judged tags weigh together; tokens that are taught, judged, and known to be what should stand there
        or to depart from it."""
        known = batch["should"] != IGNORED
        departs = known & (batch["should"] != batch["input_ids"])
        return {
            "tags": self.label.counts(batch)["tags"],
            "reading": next_tokens(batch["should"]),
            "dense": _is_dense(batch).sum(),
            "known": known.sum(),
            "departs": departs.sum(),
        }

    def __call__(self, model: nn.Module, batch: Batch, counts: Counts | None = None) -> tuple[Tensor, Numbers]:
        """As `cos.training.learning.losses.StageLoss`. Needs a verdict at every token of the turn,
        as the chains of a generated task have it (`cos.training.data.generated`).

        Errors: ValueError where no tag is labelled.
        """
        own = self.counts(batch)
        by = own if counts is None else counts
        first = int(batch["first"])
        turn = {name: batch[name][:, first:] for name in ("input_ids", "should", "verdict", "is_tag")}
        layers = len(cast(Any, model).model.language_model.layers)
        depths = (layers - LAYERS, layers - LAYERS + 1, layers - LAYERS + 2, layers)
        read, compared, departing, last = (
            stream[:, first:] for stream in residual_streams(model, batch, depths, self.stream_noise)
        )
        reading = next_token_sum(head_logits(model, read), turn["should"])
        comparing, skills = self._comparing(compared, departing, turn, own, by)
        margins = label_margins(head_logits(model, last), self.label.labels)
        tags, numbers = self.label.over(margins, turn, by["tags"])
        judged = _is_dense(turn)
        dense = functional.binary_cross_entropy_with_logits(margins[judged], turn["verdict"][judged], reduction="sum")
        value = self.reading_weight * over(reading, by["reading"]) + self.comparing_weight * comparing
        value = value + self.dense_weight * over(dense, by["dense"]) + self.tag_weight * tags
        found = {
            "reading": over(reading, own["reading"]).item(),
            "tag_loss": over(tags * by["tags"], own["tags"]).item(),
            "dense": over(dense, own["dense"]).item(),
        }
        return value, {**found, **numbers, **skills}

    def _comparing(
        self, compared: Tensor, departing: Tensor, turn: Mapping[str, Tensor], own: Counts, by: Counts
    ) -> tuple[Tensor, dict[str, float]]:
        """The losses of the throw-away heads over the places where one knows what should stand there."""
        known = turn["should"] != IGNORED
        should, ids = turn["should"][known], turn["input_ids"][known]
        differ = should != ids
        guessed = self.heads.here(_normed(compared[known])).float()
        here = functional.cross_entropy(guessed, should, reduction="none")
        current = functional.cross_entropy(self.heads.own(_normed(compared[known])).float(), ids, reduction="sum")
        margins = self.heads.departs(_normed(departing[known])).float()[..., 0]
        found = functional.binary_cross_entropy_with_logits(margins, differ.float(), reduction="none")
        numbers = {
            "here": _evenly(here, differ, own).item(),
            "apart": over(found.sum(), own["known"]).item(),
            "departures_found": (margins[differ] > 0).float().mean().item() if bool(differ.any()) else 1.0,
            "false_alarms": (margins[~differ] > 0).float().mean().item(),
        }
        value = _evenly(here, differ, by) + 0.3 * over(current, by["known"])
        return value + 0.5 * _evenly(found, differ, by) + DEPARTURES * over(found.sum(), by["known"]), numbers


def _is_dense(turn: Batch) -> Tensor:
    """Judged places that are no tags."""
    return (turn["verdict"] != UNJUDGED) & ~turn["is_tag"]


def _normed(stream: Tensor) -> Tensor:
    return functional.rms_norm(stream, stream.shape[-1:])


def _evenly(losses: Tensor, departs: Tensor, counts: Counts) -> Tensor:
    """The mean of both kinds' means: else the many places where the two agree teach to look at one of them only."""
    agreeing = over(losses[~departs].sum(), counts["known"] - counts["departs"])
    return agreeing + over(losses[departs].sum(), counts["departs"])


def residual_streams(
    model: nn.Module, batch: Mapping[str, Any], depths: Sequence[int], noise: float = 0.0
) -> list[Tensor]:
    """The residual stream (batch, length, width) after each number of layers in ``depths``, which ascend.

    ``noise``: each number in the stream is off by a random share of that standard deviation before every layer, so
    that a verdict does not hang on digits that an engine's number format rounds away (bfloat16's rms error: 0.0011).
    """
    inner: Any = cast(Any, model).model
    text = inner.language_model
    features = inner.get_image_features(pixel_values=batch["pixel_values"])
    features = features if isinstance(features, Tensor) else features.pooler_output
    stream: Tensor = text.embed_tokens(batch["input_ids"])
    image = (batch["input_ids"] == cast(Any, model).config.image_token_id).unsqueeze(-1).expand_as(stream)
    stream = stream.masked_scatter(image, features.to(stream.dtype).reshape(-1))
    places = torch.arange(stream.shape[1]).unsqueeze(0)
    rotary = text.rotary_emb(stream, places)
    kept: list[Tensor] = []
    for number, layer in enumerate(text.layers, start=1):
        if noise:
            stream = stream * (1 + noise * torch.randn_like(stream))
        stream = layer(stream, position_embeddings=rotary, position_ids=places)
        if number in depths:
            kept.append(stream)
    return kept


def head_logits(model: nn.Module, stream: Tensor) -> Tensor:
    """What the model's own head says of a residual stream: float32 (batch, length, vocabulary)."""
    whole: Any = model
    return whole.lm_head(whole.model.language_model.norm(stream)).float()


def deepen(model: PreTrainedModel, layers: int) -> PreTrainedModel:
    """The same InternVL with some untrained text layers more on top."""
    config = copy.deepcopy(model.config)
    text = cast(Any, config).text_config
    text.num_hidden_layers += layers
    # Qwen2 lists the kind of every layer.
    text.layer_types = ["full_attention"] * text.num_hidden_layers
    deeper = InternVLForConditionalGeneration(cast(InternVLConfig, config))
    found = deeper.load_state_dict(model.state_dict(), strict=False)
    if found.unexpected_keys:
        raise ValueError(f"a {type(model).__name__} cannot be deepened: {found.unexpected_keys[:3]}")
    return deeper
