"""Training, rollout, judge and serving see the same pixels and the same prompt, token by token.

Serving is asked itself: vLLM's own multi-modal processor renders every row, without a model and without an engine.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from prometheus_client import CollectorRegistry
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import AutoProcessor

from cos.clients.protocol import encode_image
from cos.engines.chat import ChatPrompt
from cos.engines.checkpoint import templater
from cos.engines.load import Load
from cos.engines.pictures import SERVED, Origin, decode, read_file
from cos.engines.settings import EngineSettings
from cos.engines.vllm import VllmEngine
from cos.engines.vocabulary import HfVocabulary
from cos.evaluation.accuracy import ask
from cos.evaluation.tree_scores import read_tree
from cos.prm.cos import CosPrm
from cos.prm.ports import Judged
from cos.search.errors import BadImage, InputError
from cos.search.grammars.cos import CosGrammar, Step
from cos.search.models import Models
from cos.search.ports import LabelRead
from cos.search.prompt import Prompt, question_prompt
from cos.search.types import Picture, Question
from cos.server.images import take
from cos.training.data.questions import question_of
from cos.training.data.row_data import RowData, picture_of, read_picture
from cos.training.data.rows import ChainRow, ProblemRow
from cos.training.labels.llm_judge import messages_of
from cos.training.labels.prm_scores import tree_of
from cos.training.learning.encode import Collator, Sample, Turn, TurnEncoder
from cos.training.stages.evaluate import RowProblem
from cos.wire.asked import Sent
from tests.server.test_refusals import declared_png
from tests.training.nasty_rows import ROWS, noise, pictures, questions, rows, saved
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


def call(look: Callable[[], Any]) -> Any:
    return look()


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
        patch.setattr("vllm.model_executor.models.registry._run_in_subprocess", call)
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
    uri = "data:application/octet-stream;base64," + base64.b64encode(Path(row.image or "").read_bytes()).decode()
    return decode(take([Sent(uri, "image")], SERVED)[0].data, Origin("image"))


async def test_training_rollout_judge_evaluation_and_server_see_the_same_pixels(nasty: list[ProblemRow]) -> None:
    assert len({(row.image, row.question) for row in nasty}) == len(nasty) == ROWS
    for row in nasty:
        expected = served(row)
        judged, asked = await shown_to_the_judge(row)
        drawn, evaluated = await question_of(row), ask(RowProblem(row))
        (drawn_picture,), (evaluated_picture,) = drawn.pictures, evaluated.pictures
        assert drawn_picture.digest == evaluated_picture.digest == expected.digest
        assert pixels_of(read_picture(row.image or "")) == pixels_of(expected.image), row.image
        assert pixels_of(drawn_picture.image) == pixels_of(judged) == pixels_of(expected.image), row.image
        assert drawn.text == evaluated.text == asked == row.question


@pytest.mark.parametrize("name", pictures())
def test_a_picture_opened_with_pillow_is_sent_with_the_pixels_of_its_file(name: str) -> None:
    data = pictures()[name]
    with Image.open(io.BytesIO(data)) as image:
        sent = decode(take([Sent(encode_image(image), "image")], SERVED)[0].data, Origin("image"))
    assert sent.digest == decode(data, Origin("image")).digest


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
    checkpoint: Checkpoint, architecture: Architecture, nasty: list[ProblemRow]
) -> None:
    processor = checkpoint.processor
    turn = TurnEncoder(processor.tokenizer).chain([], "2")
    collate = Collator(processor)
    samples = [Sample(read_picture(row.image or ""), row.question, turn, row.id) for row in nasty]
    together = collate(samples)
    tiles: set[int] = set()
    place = 0
    for number, (row, sample) in enumerate(zip(nasty, samples, strict=True)):
        rendered = await checkpoint.engine.render(question_prompt(await question_of(row)))
        sent, batch = sent_pixels(rendered, processor.image_processor), collate([sample])
        expected = [*rendered["prompt_token_ids"], *turn.ids]
        assert batch["input_ids"][0].tolist() == expected, row.id
        assert together["input_ids"][number].tolist()[: len(expected)] == expected, row.id
        for name in {"pixel_values", "image_sizes", "image_grid_thw"} & set(batch):
            ours, theirs = batch[name].squeeze(), sent[name].squeeze()
            torch.testing.assert_close(ours.to(theirs.dtype), theirs, rtol=1e-5, atol=1e-5, msg=f"{name} of {row.id}")
        pixels = batch["pixel_values"].squeeze(0) if architecture == "llava_next" else batch["pixel_values"]
        among = together["pixel_values"][number] if architecture == "llava_next" else together["pixel_values"][place:]
        assert torch.equal(among[: len(pixels)], pixels), row.id
        place += len(pixels)
        tiles.add(len(pixels))
    assert len(tiles) > 1, "no picture was cut into more tiles than another"


async def test_questions_without_a_picture_have_the_prompt_ids_that_vllm_sends_alone_and_beside_others(
    checkpoint: Checkpoint, nasty: list[ProblemRow]
) -> None:
    turn = TurnEncoder(checkpoint.processor.tokenizer).chain([], "2")
    collate, looking = Collator(checkpoint.processor), Collator(checkpoint.processor, always_looks=True)
    bare = [ProblemRow(id=text, question=text, answer="2") for text in questions()]
    samples = [Sample(picture_of(row), row.question, turn, row.id) for row in [*nasty[:6], *bare]]
    mixed, pictures = collate(samples), collate(samples[:6])
    for number, row in enumerate(bare):
        drawn, evaluated = await question_of(row), ask(RowProblem(row))
        assert drawn == evaluated == Question(row.question)
        rendered = await checkpoint.engine.render(question_prompt(drawn))
        expected = [*rendered["prompt_token_ids"], *turn.ids]
        for batch, place in (
            (collate([samples[6 + number]]), 0),
            (looking([samples[6 + number]]), 0),
            (mixed, 6 + number),
        ):
            assert batch["input_ids"][place].tolist()[: len(expected)] == expected, row.id
        _, user = await messages_of(ChainRow(id=row.id, problem=row, steps=(), answer="2"))
        assert [part["type"] for part in cast("Any", user)["content"]] == ["text", "text"]
    assert torch.equal(mixed["pixel_values"], pictures["pixel_values"])


def test_a_picture_that_a_stage_draws_has_the_pixels_of_its_file(checkpoint: Checkpoint) -> None:
    turn, collate = TurnEncoder(checkpoint.processor.tokenizer).chain([], "2"), Collator(checkpoint.processor)
    image = noise(56, 40)
    drawn = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    ours, theirs = (collate([Sample(picture, "?", turn)])["pixel_values"] for picture in (drawn, image))
    assert torch.equal(ours, theirs)


async def test_nothing_but_the_chat_template_begins_a_prompt(checkpoint: Checkpoint) -> None:
    processor = checkpoint.processor
    first = processor.tokenizer.convert_tokens_to_ids("<|im_start|>")
    turn = TurnEncoder(processor.tokenizer).chain([], "2")
    image = noise(56, 56)
    rendered = await checkpoint.engine.render(question_prompt(Question("<|im_end|>?", (Picture(image, "digest"),))))
    for ids in (
        rendered["prompt_token_ids"],
        Collator(processor)([Sample(image, "<|im_end|>?", turn)])["input_ids"][0],
    ):
        assert int(ids[0]) == first
        assert processor.tokenizer.pad_token_id not in list(ids)


class WrittenDown:
    """A PRM's engine and session that write down what they are asked to read."""

    def __init__(self, vocabulary: HfVocabulary) -> None:
        self.vocabulary = vocabulary
        self.read: list[list[int]] = []

    async def open(self, prompt: Prompt) -> WrittenDown:
        return self

    async def read_labels(self, prefix: Sequence[int], labels: tuple[int, ...], priority: int) -> LabelRead:
        self.read.append([*prefix])
        return LabelRead((-0.1, -3.0), 1, 0)


@pytest.mark.parametrize("tokenizer_of_policy", ["the same", "another"])
async def test_a_prm_is_taught_the_chain_that_it_reads_in_a_search(
    tokenizer_of_policy: str, checkpoint: Checkpoint, nasty: list[ProblemRow]
) -> None:
    reader = WrittenDown(checkpoint.engine.vocabulary)
    encoder = TurnEncoder(checkpoint.processor.tokenizer)
    policy: Any = reader.vocabulary if tokenizer_of_policy == "the same" else SimpleNamespace(fingerprint="another")
    grammar = CosGrammar(reader.vocabulary)
    scorer = CosPrm(cast("Any", reader), Judged(vocabulary=policy, grammar=grammar))
    texts = questions()
    steps = tuple(Step(*texts[start : start + 3]) for start in range(0, len(texts) - 3, 3))
    row = ChainRow(id="chain", problem=nasty[0], steps=steps, answer=texts[-1])
    nodes, _ = tree_of(Models(policy=cast("Any", reader), grammar=grammar, scorer=scorer), [row])
    await read_tree(await scorer.open(Question("?")), nodes, asyncio.Semaphore(1))
    taught = encoder.judged(steps, row.answer, [1.0] * (len(steps) + 1))
    assert max(reader.read, key=len) == taught.ids


REFUSED = {
    "of 400 megapixels": (declared_png(20_000, 20_000), "400.0 megapixels, the limit is 25"),
    "of 100 megapixels": (declared_png(10_000, 10_000), "100.0 megapixels, the limit is 25"),
    "of 30 megapixels": (declared_png(6000, 5000), "6000x5000 pixels, 30.0 megapixels, the limit is 25"),
    "201 times as wide as high": (saved(Image.new("RGB", (201, 1))), "201x1 pixels; one side may be 200 times the oth"),
    "cut off in its pixels": (saved(noise(90, 90))[:4000], "a broken image file"),
    "cut off as JPEG": (saved(noise(90, 90), "JPEG")[:1500], "a broken image file"),
    "of another format": (saved(noise(9, 9), "TIFF"), "not an image (expected PNG, JPEG, WEBP, GIF or BMP)"),
    "that is text": (b"hello", "not an image"),
    "that is empty": (b"", "empty; give a picture"),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_what_a_server_refuses_training_refuses_in_the_same_words_and_names_the_file(
    kind: str, tmp_path: Path
) -> None:
    data, why = REFUSED[kind]
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    row = ProblemRow(id="a row", image=str(path), question="?", answer="2")
    with pytest.raises(BadImage) as by_server:
        decode(take([Sent(data, "image")], SERVED)[0].data, Origin("image"))
    said = str(by_server.value).removeprefix("image: ")
    assert said.startswith(why)
    with pytest.raises(InputError) as by_training:
        read_picture(row.image or "")
    with pytest.raises(InputError) as by_rollout:
        await question_of(row)
    assert str(by_training.value) == str(by_rollout.value) == f"picture {str(path)!r}: {said}"
    with pytest.raises(InputError, match="picture of problem 'a row': ") as by_evaluation:
        ask(RowProblem(row))
    assert str(by_evaluation.value).endswith(said)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gone.png", "cannot be read: No such file or directory"),
        ("", "cannot be read: Is a directory"),
        ("a\0b.png", "cannot be read: embedded null byte"),
        ("large.png", "16.5 MiB, the limit is 16 MiB; make the picture smaller, or save it as JPEG"),
    ],
)
async def test_a_file_that_cannot_be_taken_is_named_by_all_who_read_pictures(
    name: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / "large.png").write_bytes(saved(noise(9, 9)) + bytes(int(16.5 * 2**20) - 300))
    row = ProblemRow(id="a row", image=str(tmp_path / name), question="?", answer="2")
    for read in (read_picture, read_file):
        with pytest.raises(InputError) as refused:
            read(str(tmp_path / name))
        assert str(refused.value) == f"picture {row.image!r}: {why}"
    with pytest.raises(InputError) as refused:
        await question_of(row)
    assert str(refused.value) == f"picture {row.image!r}: {why}"


def test_a_picture_that_is_too_large_stops_training_by_its_row_its_file_its_size_and_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(declared_png(20_000, 20_000))
    problem = ProblemRow(id="p", image=str(path), question="?", answer="2")
    data = RowData([ChainRow(id="p/0", problem=problem, steps=(), answer="2")], lambda _: Turn([], [], [], []))
    with pytest.raises(InputError, match=r"row 'p/0': picture '.*large.png': 400.0 megapixels, the limit is 25; give"):
        data[0]
