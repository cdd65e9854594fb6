"""Step-structured SFT of the policy on gold chains."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

from cos.training.batches import LedgerBatches
from cos.training.chains import encode_policy
from cos.training.ledger import derive
from cos.training.loop import Plan, train
from cos.training.mnist import Digits
from cos.training.models import IMAGE_TOKENS, Size, token_id
from cos.training.render import Renderer
from cos.training.text import Reader, next_token_loss


def sft_batches(tokenizer: PreTrainedTokenizerFast, digits: Digits, batch: int, seed: int) -> LedgerBatches:
    """Gold chains on fresh pictures."""
    return LedgerBatches(
        Renderer(digits),
        lambda problem, _: encode_policy(tokenizer, problem.question, derive(problem), IMAGE_TOKENS),
        batch,
        token_id(tokenizer, "<|endoftext|>"),
        seed,
    )


def train_sft(
    model: InternVLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    size: Size,
    digits: Digits,
    plan: Plan,
    batch: int,
    seed: int,
    thawed: bool,
) -> None:
    """Trains the text model in place (and the tower, when ``thawed``); loss on the assistant's turn alone."""
    reader = Reader(model, size.image_side, thawed)
    batches = sft_batches(tokenizer, digits, batch, seed)

    def loss(step: int) -> tuple[Tensor, Mapping[str, float]]:
        drawn = batches(step)
        value, hits = next_token_loss(reader(drawn), drawn)
        return value, {"exact_chains": hits.all(1).float().mean().item()}

    train(reader, loss, plan)


@torch.no_grad()
def exact_chains(
    model: InternVLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, size: Size, digits: Digits, seed: int
) -> float:
    """Share of unseen gold chains whose every token is the likeliest, given the ones before."""
    reader = Reader(model, size.image_side)
    batches = sft_batches(tokenizer, digits, 32, seed)
    shares: list[float] = []
    for step in range(6):
        drawn = batches(step)
        shares.append(next_token_loss(reader(drawn), drawn)[1].all(1).float().mean().item())
    return sum(shares) / len(shares)
