"""Pictures as vLLM is given them: for InternVLChatModel the tiles of the published preprocessing, for Qwen2.5-VL the
patches of transformers' processor. VisualPRM's class is run as the model that it is."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cos.engines.settings import Role
from cos.search.prompt import question_prompt
from cos.search.types import Picture, Question
from tests.engines.rendering import looking_here, rendering_engine
from tests.tiny import internvl_chat, qwen2_5_vl, tiles

SIDE = 448
SIZES = {(1000, 300): (3, 1), (448, 448): (1, 1), (300, 1000): (1, 3), (4000, 3000): (4, 3)}
"""Columns and rows of tiles."""
CONTEXT = 16_384


def picture(width: int, height: int) -> Picture:
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 5 % 256, columns * 3 % 256, (rows + columns) % 256], axis=-1).astype("uint8")
    return Picture(Image.fromarray(pixels), f"{width}x{height}")


@pytest.fixture(scope="module", autouse=True)
def looking() -> Iterator[None]:
    with looking_here():
        yield


@pytest.fixture(scope="module")
def internvl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("internvl")
    internvl_chat.write(folder, side=SIDE, context_tokens=CONTEXT)
    return folder


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    qwen2_5_vl.write(folder, most_pixels=1280 * 28 * 28, context_tokens=CONTEXT)
    return folder


@pytest.mark.parametrize(("size", "expected"), SIZES.items(), ids=str)
def test_a_picture_is_cut_as_published(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert tiles.grid(*size, SIDE) == expected


@pytest.mark.parametrize("role", ["policy", "prm"])
async def test_internvls_tiles_are_those_of_the_published_preprocessing(internvl: Path, role: Role) -> None:
    engine = rendering_engine(internvl, role)
    context = engine.vocabulary.control_id("<IMG_CONTEXT>")
    for width, height in SIZES:
        prompt = question_prompt(Question("Which row?", (picture(width, height),)))
        rendered = await engine.render(prompt)
        expected = tiles.inputs(internvl, prompt)
        assert rendered["prompt_token_ids"] == expected["input_ids"][0].tolist()
        (item,) = rendered["mm_kwargs"]["image"]
        pixels = item["pixel_values_flat"].data
        columns, rows = SIZES[width, height]
        count = columns * rows + (columns * rows > 1)
        assert pixels.shape == (count, 3, SIDE, SIDE)
        assert rendered["prompt_token_ids"].count(context) == 256 * count
        torch.testing.assert_close(pixels.float(), expected["pixel_values"], atol=1e-5, rtol=0)


async def test_qwens_patches_are_those_of_transformers_processor(qwen: Path) -> None:
    from transformers import AutoProcessor

    engine = rendering_engine(qwen)
    processor = AutoProcessor.from_pretrained(qwen)
    looks = processor.image_processor
    mean, std = (torch.tensor(values).view(1, 3, 1) for values in (looks.image_mean, looks.image_std))
    for width, height in SIZES:
        shown = picture(width, height)
        rendered = await engine.render(question_prompt(Question("Which row?", (shown,))))
        messages = [
            {
                "role": "user",
                "content": [{"type": "image", "image": shown.image}, {"type": "text", "text": "Which row?"}],
            }
        ]
        expected = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        assert rendered["prompt_token_ids"] == expected["input_ids"][0].tolist()
        (item,) = rendered["mm_kwargs"]["image"]
        assert item["image_grid_thw"].data.tolist() == expected["image_grid_thw"][0].tolist()
        # vLLM leaves it to the model to scale them.
        patches = item["pixel_values"].data.float()
        scaled = (patches.reshape(len(patches), 3, -1) / 255 - mean) / std
        torch.testing.assert_close(scaled.reshape(patches.shape), expected["pixel_values"], atol=1e-4, rtol=0)


async def test_visualprms_class_writes_as_the_internvl_that_it_is(tmp_path: Path) -> None:
    internvl_chat.write(tmp_path, architecture="InternVLRewardModel")
    engine = rendering_engine(tmp_path, "prm")
    assert engine.abilities == {"labels", "text"}
    prompt = question_prompt(Question("Which row?", (picture(90, 40),)))
    expected = tiles.inputs(tmp_path, prompt)["input_ids"][0].tolist()
    assert (await engine.render(prompt))["prompt_token_ids"] == expected
