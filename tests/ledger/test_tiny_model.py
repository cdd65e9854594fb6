"""Training mechanics of the small models: checkpoints reload, processors agree, data follow from the seed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, InternVLForConditionalGeneration, PreTrainedTokenizerFast

from cos.ledger.mnist import Digits
from cos.ledger.render import EMPTY, Renderer, cells_of
from cos.ledger.samples import gold_ledgers
from cos.ledger.tiny_model import IMAGE_TOKENS, Size, build_model, build_processor, build_tokenizer
from cos.search.errors import InputError
from cos.training.learning.encode import Collator, TurnEncoder, load_checkpoint
from cos.training.learning.parts import take_text

TINY = Size(image_side=56, vision_width=64, vision_layers=1, text_width=64, text_layers=1, text_mlp=64)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def digits() -> Digits:
    images = np.random.default_rng(0).integers(0, 255, (50, 28, 28), np.uint8)
    return Digits(images, np.arange(50, dtype=np.uint8) % 10)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    build_model(TINY, tokenizer, seed=3).save_pretrained(folder)
    build_processor(TINY, tokenizer).save_pretrained(folder)
    return folder


def test_a_saved_checkpoint_reloads_to_the_same_weights(checkpoint: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = build_model(TINY, tokenizer, seed=3)
    again = InternVLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    for (name, weight), (_, same) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(weight, same), name


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config.json there"):
        load_checkpoint(tmp_path)


def test_the_text_model_can_be_taken_over_and_the_eyes_stay(tokenizer: PreTrainedTokenizerFast) -> None:
    one, other = build_model(TINY, tokenizer, seed=1), build_model(TINY, tokenizer, seed=2)
    eyes = {name: value.clone() for name, value in other.state_dict().items() if "vision" in name}
    take_text(one, other)
    taken = other.state_dict()
    assert all(torch.equal(taken[name], value) for name, value in eyes.items())
    assert torch.equal(taken["model.language_model.norm.weight"], one.state_dict()["model.language_model.norm.weight"])
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    assert torch.equal(taken[name], one.state_dict()[name])


def test_the_same_batch_follows_from_the_same_index(
    checkpoint: Path, tokenizer: PreTrainedTokenizerFast, digits: Digits
) -> None:
    collate = Collator(AutoProcessor.from_pretrained(checkpoint), (256, 320, 384, 448))
    indices = range(8, 12)
    one = collate(gold_ledgers(digits, TurnEncoder(tokenizer), 64, 4, 7).__getitems__(indices))
    again = collate(gold_ledgers(digits, TurnEncoder(tokenizer), 64, 4, 7).__getitems__(indices))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert one["input_ids"].shape[1] in (256, 320, 384, 448)
    assert one["pixel_values"].shape == (4, 3, 56, 56)


def test_the_shipped_processor_sees_every_cell(checkpoint: Path, digits: Digits) -> None:
    picture = Renderer(digits).draw(torch.tensor([cells_of(["47", "123"])]), torch.Generator().manual_seed(0))
    served = AutoProcessor.from_pretrained(checkpoint)(text="<IMG_CONTEXT>", images=[picture[0]], return_tensors="pt")
    token = AutoProcessor.from_pretrained(checkpoint).tokenizer.get_vocab()["<IMG_CONTEXT>"]
    assert served["input_ids"][0].tolist().count(token) == IMAGE_TOKENS


def test_cells_begin_behind_the_margin() -> None:
    assert cells_of(["47", "123"]) == [EMPTY, 4, 7, EMPTY, EMPTY, 1, 2, 3] + [EMPTY] * 8
