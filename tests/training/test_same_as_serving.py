"""Training, rollout, judge and serving see the same pixels and the same prompt, token by token.

Serving is asked itself: vLLM's own multi-modal processor renders every row, without a model and without an engine.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from prometheus_client import CollectorRegistry
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import AutoProcessor

from cos.engines.checkpoint import templater
from cos.engines.load import Load
from cos.engines.pictures import SERVED, Origin, decode
from cos.engines.settings import EngineSettings
from cos.engines.vllm import VllmEngine
from cos.engines.vocabulary import ChatPrompt, HfVocabulary
from cos.search.types import Picture, Question
from cos.server.images import take
from cos.training.accuracy import ask
from cos.training.encode import Collator, Sample, TurnEncoder
from cos.training.evaluate import RowProblem
from cos.training.judge import messages_of
from cos.training.rollout import question_of
from cos.training.row_data import read_picture
from cos.training.rows import ChainRow, ProblemRow
from tests.training.nasty_rows import ROWS, noise, rows
from tests.training.tiny_models import ARCHITECTURES, SIDE, Architecture, build

CONTEXT_TOKENS = 8192
TILES = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE], [3 * SIDE, SIDE], [SIDE, 3 * SIDE]]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, and the engine that would serve it, which renders but does not run."""

    folder: Path
    engine: VllmEngine

    @property
    def processor(self) -> Any:
        return AutoProcessor.from_pretrained(self.folder)


def cut_into_tiles(folder: Path, architecture: Architecture) -> None:
    """Has large pictures become more than one tile, or more patches, as real checkpoints do."""
    processor: Any = AutoProcessor.from_pretrained(folder)
    match architecture:
        case "internvl":
            processor.image_processor.max_patches = 6
        case "llava_next":
            processor.image_processor.image_grid_pinpoints = TILES
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**config, "image_grid_pinpoints": TILES}))
        case "qwen2_5_vl":
            processor.image_processor.size = {"shortest_edge": SIDE**2, "longest_edge": (6 * SIDE) ** 2}
    processor.save_pretrained(folder)


def begin_texts_by_itself(folder: Path) -> None:
    """Has the tokenizer put a token of its own before every text, as Llama's do."""
    processor: Any = AutoProcessor.from_pretrained(folder)
    tokenizer = processor.tokenizer
    token, its_id = tokenizer.pad_token, tokenizer.pad_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, its_id)]
    )
    assert tokenizer.encode("a")[0] == its_id
    processor.save_pretrained(folder)


def rendering_engine(folder: Path) -> VllmEngine:
    """What `cos.engines.vllm` starts, without the process that computes."""
    from vllm import AsyncEngineArgs
    from vllm.renderers import renderer_from_config

    args = AsyncEngineArgs(
        model=str(folder),
        limit_mm_per_prompt={"image": 1, "video": 0},
        enforce_eager=True,
        generation_config="vllm",
        mm_processor_cache_gb=0,  # every rendering brings its pixels
    )
    config = args.create_engine_config()
    settings = EngineSettings(role="policy", model=str(folder))
    renderer: Any = renderer_from_config(config)
    vocabulary = HfVocabulary(renderer.get_tokenizer())
    prompt = ChatPrompt(vocabulary, templater(settings, renderer.get_tokenizer()))
    llm = SimpleNamespace(model_config=SimpleNamespace(max_model_len=CONTEXT_TOKENS), renderer=renderer, errored=False)
    return VllmEngine(settings, llm, prompt, vocabulary, CollectorRegistry(), Load())


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return request.param


@pytest.fixture(scope="module", params=["plain", "begins texts by itself"])
def checkpoint(
    request: pytest.FixtureRequest, architecture: Architecture, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Checkpoint]:
    folder = build(tmp_path_factory.mktemp("model"), architecture)
    cut_into_tiles(folder, architecture)
    if request.param != "plain":
        begin_texts_by_itself(folder)
    with pytest.MonkeyPatch.context() as patch:
        # vLLM looks at a model's class in a process of its own, which takes 20 s where it has not looked before.
        patch.setattr("vllm.model_executor.models.registry._run_in_subprocess", lambda look: look())
        yield Checkpoint(folder, rendering_engine(folder))


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> list[ProblemRow]:
    return list(rows(tmp_path_factory.mktemp("pictures")))


def pixels_of(image: Image.Image) -> tuple[tuple[int, int], bytes]:
    assert image.mode == "RGB"
    return image.size, image.tobytes()


async def shown_to_the_judge(row: ProblemRow) -> tuple[Image.Image, str]:
    """The picture and the question that a judge is sent."""
    messages: Any = await messages_of(ChainRow(id=row.id, problem=row, steps=(), answer="2"))
    picture, asked, _ = messages[1]["content"]
    data = base64.b64decode(picture["image_url"]["url"].partition(",")[2])
    return decode(data, Origin("image")).image, json.loads(asked["text"])["question"]


def served(row: ProblemRow) -> Picture:
    """The picture of a row as a server has it that was sent the file in a request."""
    uri = "data:application/octet-stream;base64," + base64.b64encode(Path(row.image).read_bytes()).decode()
    return decode(take(uri, SERVED, "image").data, Origin("image"))


async def test_training_rollout_judge_evaluation_and_server_see_the_same_pixels(nasty: list[ProblemRow]) -> None:
    assert len({(row.image, row.question) for row in nasty}) == len(nasty) == ROWS
    for row in nasty:
        expected = served(row)
        judged, asked = await shown_to_the_judge(row)
        drawn, evaluated = await question_of(row), ask(RowProblem(row))
        assert drawn.picture is not None
        assert evaluated.picture is not None
        assert drawn.picture.digest == evaluated.picture.digest == expected.digest
        assert pixels_of(read_picture(row.image)) == pixels_of(expected.image), row.image
        assert pixels_of(drawn.picture.image) == pixels_of(judged) == pixels_of(expected.image), row.image
        assert drawn.text == evaluated.text == asked == row.question


def sent_pixels(rendered: dict[str, Any], image_processor: Any) -> dict[str, Tensor]:
    """The tensors that vLLM sends its engine for the picture; those of Qwen2.5-VL are normalised there, of 8 bits."""
    tensors: dict[str, Any] = rendered["mm_kwargs"].get_data()
    pixels = tensors["pixel_values"]
    if pixels.dtype == torch.uint8:
        levels = pixels.float().unflatten(-1, (3, -1))
        mean, spread = (torch.tensor(getattr(image_processor, name))[:, None] for name in ("image_mean", "image_std"))
        tensors["pixel_values"] = ((levels * image_processor.rescale_factor - mean) / spread).flatten(-2)
    return {name: value for name, value in tensors.items() if isinstance(value, Tensor)}


async def test_training_takes_the_prompt_ids_and_the_pixels_that_vllm_sends_its_engine(
    checkpoint: Checkpoint, nasty: list[ProblemRow]
) -> None:
    processor = checkpoint.processor
    turn = TurnEncoder(processor.tokenizer).chain([], "2")
    collate = Collator(processor)
    samples = [Sample(read_picture(row.image), row.question, turn, row.id) for row in nasty]
    together = collate(samples)["input_ids"].tolist()
    tiles: set[int] = set()
    for row, sample, padded in zip(nasty, samples, together, strict=True):
        rendered = await checkpoint.engine.render(await question_of(row))
        sent, batch = sent_pixels(rendered, processor.image_processor), collate([sample])
        expected = [*rendered["prompt_token_ids"], *turn.ids]
        assert batch["input_ids"][0].tolist() == expected, row.id
        assert padded[: len(expected)] == expected, row.id
        for name in {"pixel_values", "image_sizes", "image_grid_thw"} & set(batch):
            ours, theirs = batch[name].squeeze(), sent[name].squeeze()
            torch.testing.assert_close(ours.to(theirs.dtype), theirs, rtol=1e-5, atol=1e-5, msg=f"{name} of {row.id}")
        tiles.add(len(sent["pixel_values"].squeeze()))
    assert len(tiles) > 1, "no picture was cut into more tiles than another"


async def test_nothing_but_the_chat_template_begins_a_prompt(checkpoint: Checkpoint) -> None:
    processor = checkpoint.processor
    first = processor.tokenizer.convert_tokens_to_ids("<|im_start|>")
    turn = TurnEncoder(processor.tokenizer).chain([], "2")
    image = noise(56, 56)
    rendered = await checkpoint.engine.render(Question("<|im_end|>?", Picture(image, "digest")))
    for ids in (
        rendered["prompt_token_ids"],
        Collator(processor)([Sample(image, "<|im_end|>?", turn)])["input_ids"][0],
    ):
        assert int(ids[0]) == first
        assert processor.tokenizer.pad_token_id not in list(ids)
