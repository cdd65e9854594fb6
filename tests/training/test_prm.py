"""The judge in training: what its heads are asked, and that it begins as the policy's reader."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from cos.training.batches import Batch, pad
from cos.training.chains import UNKNOWN
from cos.training.ledger import clumsy, derive, sample_problem
from cos.training.models import Size, build_model, build_tokenizer, take_text, token_id
from cos.training.prm import Judge, Judged, clumsy_chain, comparing_loss
from cos.training.text import Reader

SHALLOW = Size(image_side=56, vision_width=64, vision_layers=1, text_width=128, text_layers=2, text_mlp=64)
DEEP = replace(SHALLOW, text_layers=5)


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """Tests need no C++ compiler."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture
def batch(tokenizer: PreTrainedTokenizerFast) -> Batch:
    rng = random.Random(5)
    chains = [clumsy_chain(tokenizer, sample_problem(rng), rng) for _ in range(4)]
    pictures = torch.randint(0, 255, (4, 3, 112, 112), dtype=torch.uint8)
    return pad(chains, pictures, token_id(tokenizer, "<|endoftext|>"))


def test_a_judge_begins_by_reading_as_the_policy_does(tokenizer: PreTrainedTokenizerFast, batch: Batch) -> None:
    policy, deeper = build_model(SHALLOW, tokenizer, seed=1), build_model(DEEP, tokenizer, seed=2)
    take_text(policy, deeper)
    for part in ("vision_tower", "multi_modal_projector"):
        getattr(deeper.model, part).load_state_dict(getattr(policy.model, part).state_dict())
    with torch.no_grad():
        read = Judge(deeper, 56, SHALLOW.text_layers)(batch).reading
        assert torch.allclose(read, Reader(policy, 56)(batch), atol=1e-2)


def test_copying_what_stands_there_does_not_pay(batch: Batch) -> None:
    copied = 20.0 * functional.one_hot(batch.ids, 512).float()
    told = 20.0 * functional.one_hot(batch.should.clamp(min=0), 512).float()
    sees = torch.where((batch.should != batch.ids) & (batch.should != UNKNOWN), 20.0, -20.0)
    copyist = Judged(copied, copied, copied, torch.full_like(sees, -20.0), copied)
    judge = Judged(copied, told, copied, sees, copied)
    assert comparing_loss(judge, batch)[0] < 0.01
    assert comparing_loss(copyist, batch)[0] > 10, "few places differ, but they count as much as all others"


def test_every_loss_reaches_its_layer(tokenizer: PreTrainedTokenizerFast, batch: Batch) -> None:
    judge = Judge(build_model(DEEP, tokenizer, seed=3), 56, SHALLOW.text_layers)
    comparing_loss(judge(batch), batch)[0].backward()  # pyright: ignore[reportUnknownMemberType]
    layers = judge.reader.model.model.language_model.layers
    assert [layer.self_attn.q_proj.weight.grad is not None for layer in layers] == [True] * 4 + [False]


def test_a_clumsy_writer_errs_at_every_kind_of_place() -> None:
    rng = random.Random(3)
    problems = [sample_problem(rng) for _ in range(300)]
    misread = [derive(p, clumsy(rng, 0.3, 0.0)) for p in problems]
    miscounted = [derive(p, clumsy(rng, 0.0, 0.3)) for p in problems]
    gold = [derive(p) for p in problems]
    for written, reads in ((misread, True), (miscounted, False)):
        wrong = [
            (a, b) for w, g in zip(written, gold, strict=True) for a, b in zip(w.steps, g.steps, strict=False) if a != b
        ]
        assert any(a.name.startswith("Read row") for a, _ in wrong) is reads
        assert {a.name.split()[0] for a, _ in wrong} >= {"Add", "Subtract", "Compare", "Check"}
