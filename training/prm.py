"""Stage 3: the PRM. Reading, verifying token by token, and the label at every tag, all at once.

The label logits at a tag are those of good and bad at the tag position itself, unshifted (paper's released code,
modeling_internvl_prm.py), with binary cross-entropy. Two losses beside it make the skill learnable: the language-model
loss on what is gold keeps the model reading the picture, and a verdict at every token says where a segment went wrong.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

from cos.search.grammar import LABEL_BAD, LABEL_GOOD
from cos.training.batches import Batch, LedgerBatches
from cos.training.chains import Encoded, encode_prm, segments_of
from cos.training.ledger import Problem, clumsy, derive
from cos.training.loop import Plan, train
from cos.training.mnist import Digits
from cos.training.models import IMAGE_TOKENS, Size, token_id
from cos.training.render import Renderer
from cos.training.text import Reader, next_token_loss


@dataclass(frozen=True)
class Weights:
    """How much each loss counts."""

    reading: float = 1.0
    dense: float = 1.0
    tags: float = 0.5


def clumsy_chain(tokenizer: PreTrainedTokenizerFast, problem: Problem, rng: random.Random) -> Encoded:
    """A chain by somebody who makes mistakes (one in four makes none), labelled by the exact checker."""
    gold = derive(problem)
    careful = rng.random() < 0.25
    slip = clumsy(rng, rng.uniform(0.02, 0.3), rng.choice((0.0, 0.02, 0.06)))
    written = gold if careful else derive(problem, slip)
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
    model: InternVLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    size: Size,
    digits: Digits,
    plan: Plan,
    batch: int,
    seed: int,
    weights: Weights,
    rollouts: Sequence[Batch] | None = None,
    frozen_layers: int = 0,
) -> None:
    """Trains in place on clumsy chains; with ``rollouts`` every other batch is of the policy's own chains."""
    reader = Reader(model, size.image_side, frozen_layers=frozen_layers)
    batches = clumsy_batches(tokenizer, digits, batch, seed)
    labels = label_ids(tokenizer)

    def loss(step: int) -> tuple[Tensor, Mapping[str, float]]:
        own = rollouts is not None and step % 2 == 1
        drawn = (
            rollouts[random.Random(f"{seed}/{step}").randrange(len(rollouts))] if rollouts and own else batches(step)
        )
        logits = reader(drawn)
        reading, _ = next_token_loss(logits, drawn)
        verdict, numbers = label_loss(label_margins(logits, labels), drawn, weights)
        kind = "own_" if own else ""
        return weights.reading * reading + verdict, {
            "reading": reading.item(),
            **{kind + k: v for k, v in numbers.items()},
        }

    train(reader, loss, plan)


@torch.no_grad()
def tag_accuracy(
    model: InternVLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, size: Size, digits: Digits, seed: int
) -> Mapping[str, float]:
    """Tag accuracy and share of bad tags found, on clumsy chains over unseen digits."""
    reader = Reader(model, size.image_side)
    batches = clumsy_batches(tokenizer, digits, 24, seed)
    totals: dict[str, float] = {}
    for step in range(6):
        drawn = batches(step)
        margins = label_margins(reader(drawn), label_ids(tokenizer))
        for key, number in label_loss(margins, drawn, Weights())[1].items():
            totals[key] = totals.get(key, 0.0) + number / 6
    return totals
