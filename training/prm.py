"""The PRM: a reader, and judging layers above it.

The label logits at a tag are those of good and bad at the tag position itself, unshifted (paper's released code,
modeling_internvl_prm.py), with binary cross-entropy. Losses beside it make the skill learnable: the language-model loss
keeps the lower layers reading, `Judge`'s heads ask every layer above them for its part of a verdict, and a verdict at
every token says where a chain went wrong.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

from cos.search.grammar import LABEL_BAD, LABEL_GOOD
from cos.training.batches import Batch, LedgerBatches
from cos.training.chains import UNKNOWN, Encoded, encode_prm, segments_of
from cos.training.ledger import Problem, clumsy, derive
from cos.training.loop import Plan, train
from cos.training.mnist import Digits
from cos.training.models import IMAGE_TOKENS, token_id
from cos.training.render import Renderer
from cos.training.text import Reader, next_token_loss


@dataclass(frozen=True)
class Weights:
    """How much each loss counts."""

    reading: float = 1.0
    comparing: float = 1.0
    dense: float = 1.0
    tags: float = 0.5


class Judge(nn.Module):
    """A reader with judging layers above it, and the heads that are thrown away after training.

    A verdict is three skills on top of each other: know what should stand here, tell it from what does, remember. Each
    is simple for one layer given the one below, and none is found by gradient descent while the ones below are missing.
    So each layer above the reader has a loss of its own.
    """

    def __init__(self, model: InternVLForConditionalGeneration, side: int, reading: int) -> None:
        super().__init__()
        text = model.model.language_model
        self.reader = Reader(model, side)
        self._stops = (reading, reading + 1, reading + 2, len(text.layers))
        width: int = text.config.hidden_size
        words: int = text.config.vocab_size
        self.here = nn.Linear(width, words)
        self.own = nn.Linear(width, words)
        self.departs = nn.Linear(width, 1)

    def forward(self, batch: Batch) -> "Judged":
        """What every layer makes of a batch."""
        read, compared, told, last = self.reader.streams(batch, self._stops)
        with torch.autocast("cpu", torch.bfloat16):
            here, own = self.here(_normed(compared)).float(), self.own(_normed(compared)).float()
            departs = self.departs(_normed(told)).float()[..., 0]
        return Judged(self.reader.logits(read), here, own, departs, self.reader.logits(last))


@dataclass(frozen=True)
class Judged:
    """Logits (batch, length, vocabulary) but for ``departs`` (batch, length)."""

    reading: Tensor
    """What comes next, from the reader's last layer."""
    here: Tensor
    """What should stand here."""
    own: Tensor
    """What does stand here."""
    departs: Tensor
    """Whether the two differ."""
    verdict: Tensor
    """The model's own logits, those of the labels among them."""


def _normed(stream: Tensor) -> Tensor:
    return functional.rms_norm(stream, stream.shape[-1:])


DEPARTURES = 5.0
"""Weight of the departures' plain mean loss, which is small (few tokens depart), beside the mean of both kinds' means:
the first makes the layer sure of itself, the second gets it off the ground."""


def comparing_loss(judged: Judged, batch: Batch) -> tuple[Tensor, Mapping[str, float]]:
    """The losses of the throw-away heads over the places where one knows what should stand there."""
    known = batch.should != UNKNOWN
    should, ids = batch.should[known], batch.ids[known]
    differ = should != ids
    here = _evenly(functional.cross_entropy(judged.here[known], should, reduction="none"), differ)
    own = functional.cross_entropy(judged.own[known], ids)
    margins = judged.departs[known]
    found = functional.binary_cross_entropy_with_logits(margins, differ.float(), reduction="none")
    even = _evenly(found, differ)
    apart = found.mean()
    numbers = {
        "here": here.item(),
        "own": own.item(),
        "apart": apart.item(),
        "departures_found": (margins[differ] > 0).float().mean().item() if differ.any() else 1.0,
        "false_alarms": (margins[~differ] > 0).float().mean().item(),
    }
    return here + 0.3 * own + 0.5 * even + DEPARTURES * apart, numbers


def _evenly(losses: Tensor, kind: Tensor) -> Tensor:
    """The mean of both kinds' means: else the many places where the two agree teach to look at one of them only."""
    return losses[~kind].mean() + (losses[kind].mean() if kind.any() else losses.sum() * 0.0)


def clumsy_chain(tokenizer: PreTrainedTokenizerFast, problem: Problem, rng: random.Random) -> Encoded:
    """A chain by somebody who makes no mistakes, misreads, miscalculates, or both; labelled by the exact checker."""
    gold = derive(problem)
    kind = rng.choices(("careful", "misreads", "miscounts", "both"), (0.2, 0.3, 0.4, 0.1))[0]
    misreads = rng.uniform(0.02, 0.5) if kind == "misreads" else 0.1
    miscounts = rng.uniform(0.03, 0.25) if kind == "miscounts" else 0.05
    slip = clumsy(
        rng,
        misreads if kind in ("misreads", "both") else 0.0,
        miscounts if kind in ("miscounts", "both") else 0.0,
    )
    written = derive(problem, slip)
    return encode_prm(
        tokenizer, problem.question, segments_of(written), gold, IMAGE_TOKENS, written.answer == gold.answer
    )


def label_margins(logits: Tensor, labels: tuple[int, int]) -> Tensor:
    """logit(good) - logit(bad) at every place: (batch, length); its sigmoid is the PRM score."""
    return logits[..., labels[0]] - logits[..., labels[1]]


def label_loss(margins: Tensor, batch: Batch, weights: Weights) -> tuple[Tensor, Mapping[str, float]]:
    """Binary cross-entropy over tags and, apart, over all other judged tokens; with accuracies."""
    tags = batch.is_tag
    dense = (batch.verdict >= 0) & ~tags
    at_tags = functional.binary_cross_entropy_with_logits(margins[tags], batch.verdict[tags])
    elsewhere = functional.binary_cross_entropy_with_logits(margins[dense], batch.verdict[dense])
    right = (margins[tags] > 0) == (batch.verdict[tags] > 0.5)
    bad = batch.verdict[tags] < 0.5
    numbers = {
        "tag_accuracy": right.float().mean().item(),
        "bad_found": right[bad].float().mean().item() if bad.any() else 1.0,
        "tag_loss": at_tags.item(),
    }
    return weights.tags * at_tags + weights.dense * elsewhere, numbers


def label_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """Token ids of good and bad."""
    return token_id(tokenizer, LABEL_GOOD), token_id(tokenizer, LABEL_BAD)


def clumsy_batches(tokenizer: PreTrainedTokenizerFast, digits: Digits, batch: int, seed: int) -> LedgerBatches:
    """Clumsy chains on fresh pictures."""
    padding = token_id(tokenizer, "<|endoftext|>")
    return LedgerBatches(Renderer(digits), lambda p, rng: clumsy_chain(tokenizer, p, rng), batch, padding, seed)


def train_prm(
    judge: Judge,
    tokenizer: PreTrainedTokenizerFast,
    digits: Digits,
    plan: Plan,
    batch: int,
    seed: int,
    rollouts: Sequence[Batch] = (),
) -> None:
    """Trains in place on clumsy chains; with ``rollouts`` every other batch is of the policy's own chains."""
    weights = Weights()
    batches = clumsy_batches(tokenizer, digits, batch, seed)
    labels = label_ids(tokenizer)

    def loss(step: int) -> tuple[Tensor, Mapping[str, float]]:
        own = bool(rollouts) and step % 2 == 1
        drawn = rollouts[random.Random(f"{seed}/{step}").randrange(len(rollouts))] if own else batches(step)
        judged = judge(drawn)
        reading, _ = next_token_loss(judged.reading, drawn)
        comparing, skills = comparing_loss(judged, drawn)
        verdict, numbers = label_loss(label_margins(judged.verdict, labels), drawn, weights)
        kind = "own_" if own else ""
        shown = {"reading": reading.item(), **numbers, **skills}
        return weights.reading * reading + weights.comparing * comparing + verdict, {
            kind + key: number for key, number in shown.items()
        }

    train(judge, loss, plan)


@torch.no_grad()
def tag_accuracy(judge: Judge, tokenizer: PreTrainedTokenizerFast, digits: Digits, seed: int) -> Mapping[str, float]:
    """Tag accuracy and share of bad tags found, on clumsy chains over unseen digits."""
    batches = clumsy_batches(tokenizer, digits, 24, seed)
    totals: dict[str, float] = {}
    for step in range(6):
        drawn = batches(step)
        margins = label_margins(judge(drawn).verdict, label_ids(tokenizer))
        for key, number in label_loss(margins, drawn, Weights())[1].items():
            totals[key] = totals.get(key, 0.0) + number / 6
    return totals
