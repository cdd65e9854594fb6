"""Training mechanics: a resumed run equals the uninterrupted one, a checkpoint reloads to the same logits."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoProcessor, InternVLForConditionalGeneration

from cos.training.loop import Plan, train
from cos.training.mnist import Digits
from cos.training.models import IMAGE_TOKENS, Size, build_model, build_tokenizer, save
from cos.training.render import EMPTY, Renderer, cells_of
from cos.training.sight import to_pixels

TINY = Size(image_side=56, vision_width=64, vision_layers=1, text_width=64, text_layers=1, text_mlp=64)


def regression(module: nn.Linear, step: int) -> tuple[Tensor, Mapping[str, float]]:
    """A small problem whose batches follow from the step number."""
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
    return (module(x) - x.sum(1, keepdim=True)).square().mean(), {}


def trained(folder: Path, stops: list[int]) -> Tensor:
    """Weights after training in as many runs as there are stops."""
    for stop in stops:
        torch.manual_seed(0)
        module = nn.Linear(3, 1)
        plan = Plan(folder, 40, 1e-2, warmup=5, save_every=10)

        def loss(step: int, module: nn.Linear = module, stop: int = stop) -> tuple[Tensor, Mapping[str, float]]:
            if step >= stop:
                raise KeyboardInterrupt
            return regression(module, step)

        if stop < plan.steps:
            with pytest.raises(KeyboardInterrupt):
                train(module, loss, plan)
        else:
            train(module, loss, plan)
    return module.weight.detach()  # pyright: ignore[reportPossiblyUnboundVariable]


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", [40])
    broken = trained(tmp_path / "broken", [13, 27, 40])
    assert torch.equal(whole, broken)


def test_a_loss_that_is_not_finite_stops_before_anything_is_written(tmp_path: Path) -> None:
    module = nn.Linear(3, 1)
    with pytest.raises(RuntimeError, match="the loss is nan at step 0"):
        train(module, lambda step: (module.weight.sum() * float("nan"), {}), Plan(tmp_path / "nan", 5, 1e-2))
    assert not (tmp_path / "nan" / "state.pt").exists()


def test_a_saved_checkpoint_reloads_to_the_same_logits(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    model = build_model(TINY, tokenizer, seed=3)
    save(tmp_path, TINY, model, tokenizer)
    again = InternVLForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for (name, weight), (_, same) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(weight, same), name


def test_the_shipped_processor_sees_what_training_saw(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    save(tmp_path, TINY, build_model(TINY, tokenizer, seed=3), tokenizer)
    digits = Digits(
        np.random.default_rng(0).integers(0, 255, (50, 28, 28), np.uint8), np.arange(50, dtype=np.uint8) % 10
    )
    picture = Renderer(digits).draw(torch.tensor([cells_of(["47", "123"])]), torch.Generator().manual_seed(0))
    processor = AutoProcessor.from_pretrained(tmp_path)
    served = processor(text="<IMG_CONTEXT>", images=[picture[0]], return_tensors="pt")
    assert torch.allclose(served["pixel_values"], to_pixels(picture, TINY.image_side), atol=0.02)
    assert served["input_ids"][0].tolist().count(tokenizer.get_vocab()["<IMG_CONTEXT>"]) == IMAGE_TOKENS


def test_cells_begin_behind_the_margin() -> None:
    assert cells_of(["47", "123"]) == [EMPTY, 4, 7, EMPTY, EMPTY, 1, 2, 3] + [EMPTY] * 8
