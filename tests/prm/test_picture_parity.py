"""Label formats that see pictures, through the real vLLM, on tiny checkpoints in the published layouts: the scores are
those of one pass of transformers over the whole prompt with its picture."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from PIL import Image

from cos.engines.settings import EngineSettings
from cos.engines.vllm import VllmEngine
from cos.engines.vllm_start import start_engines
from cos.prm import menu
from cos.prm.pairwise import INSTRUCTION
from cos.prm.ports import Judged
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.ports import ComparesAnswers
from cos.search.types import Candidate, Chain, Picture, Piece, Question
from tests.prm.published import QUESTION, ROUNDS, Published, growing, said, sighted
from tests.tiny import internvl_chat, qwen2_5_vl, tiles

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

SIDE = 56
TOKENS_PER_TILE = (SIDE // internvl_chat.PATCH) ** 2 // 4
CONTEXT_TOKENS = 4096


class Seeing(NamedTuple):
    """A PRM on vLLM, and how transformers scores by it: a format's prompt beside a picture."""

    engine: VllmEngine
    folder: Path
    one_pass: Callable[[str, Picture], list[float]]


def picture(shade: int) -> Picture:
    shades = [(value + shade) % 256 for value in range(256)]
    image = Image.linear_gradient("L").resize((180, 80)).point(shades).convert("RGB")
    return Picture(image, str(shade))


def compared(picture: str, one: str, other: str) -> str:
    """What `pairwise` shows of two answers. ``picture``: what the chat template writes for one."""
    return (
        said("system", INSTRUCTION)
        + said("user", f"{picture}[Question]\n{QUESTION}\n\n[Response 1]\n{one}\n\n[Response 2]\n{other}")
        + f"{ROUNDS}<answer>"
    )


def scores(published: Published, model: Any, inputs: dict[str, Any], words: Any) -> list[float]:
    import torch

    with torch.inference_mode():
        logits = model(**inputs).logits[0]
    return published.scores(inputs["input_ids"][0].tolist(), logits, words)


def internvl(folder: Path) -> Callable[[str, Picture], list[float]]:
    """VisualPRM's layout, with what MM-PRM's tokenizer has besides."""
    import torch
    from transformers import PreTrainedTokenizerFast

    model = internvl_chat.write(
        folder,
        side=SIDE,
        architecture="InternVLRewardModel",
        context_tokens=CONTEXT_TOKENS,
        added=("<prm>", "Yes", "No"),
    )
    words: Any = PreTrainedTokenizerFast.from_pretrained(folder)

    def one_pass(name: str, shown: Picture) -> list[float]:
        pixels = tiles.tiles_of(shown.image, SIDE)
        published = sighted(f"<img>{'<IMG_CONTEXT>' * len(pixels) * TOKENS_PER_TILE}</img>\n")[name]
        ids = torch.tensor([words.encode(published.text, add_special_tokens=False)])
        return scores(published, model, {"input_ids": ids, "pixel_values": pixels}, words)

    return one_pass


def qwen_vl(folder: Path) -> Callable[[str, Picture], list[float]]:
    """VL-PRM's layout."""
    model = qwen2_5_vl.write(folder, context_tokens=CONTEXT_TOKENS)
    from transformers import AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(folder)

    def one_pass(name: str, shown: Picture) -> list[float]:
        published = sighted(qwen2_5_vl.PICTURE)[name]
        inputs = processor(text=[published.text], images=[shown.image], return_tensors="pt")
        return scores(published, model, dict(inputs), processor.tokenizer)

    return one_pass


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seeing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Seeing]]:
    """By the name of the format."""
    folders = [tmp_path_factory.mktemp(name) for name in ("internvl", "qwen_vl")]
    internvl_pass, qwen_pass = internvl(folders[0]), qwen_vl(folders[1])
    settings = [EngineSettings(role="prm", model=str(folder), dtype="float32", kv_cache_mib=64) for folder in folders]
    engines = await asyncio.to_thread(start_engines, settings)
    by_internvl, by_qwen = (
        Seeing(engines[0], folders[0], internvl_pass),
        Seeing(engines[1], folders[1], qwen_pass),
    )
    try:
        yield {"visualprm": by_internvl, "mm_prm": by_internvl, "vl_prm": by_qwen}
    finally:
        await asyncio.gather(*(engine.close() for engine in engines))


@pytest.mark.parametrize("name", sighted())
async def test_growing_reads_beside_a_picture_are_one_pass_cold_and_cached(
    name: str, seeing: dict[str, Seeing]
) -> None:
    engine, _, one_pass = seeing[name]
    shown = [picture(0), picture(90)]
    wanted = [one_pass(name, one) for one in shown]
    assert len(wanted[0]) == 5
    assert wanted[0] != pytest.approx(wanted[1], abs=5e-3), "the picture must count for the test to say anything"

    await engine.forget()
    for one, expected in zip(shown, wanted, strict=True):
        cold, _ = await growing(name, engine, Question(QUESTION, (one,)))
        again, cached = await growing(name, engine, Question(QUESTION, (one,)))
        assert cached > 0
        assert cold == pytest.approx(expected, abs=1e-3)
        assert again == pytest.approx(expected, abs=1e-3)


async def test_a_comparison_beside_a_picture_is_one_pass_cold_and_cached(seeing: dict[str, Seeing]) -> None:
    """In the layout of R1-Reward, a Qwen2.5-VL."""
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    engine, folder, _ = seeing["vl_prm"]
    processor: Any = AutoProcessor.from_pretrained(folder)
    model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    judged = Judged(vocabulary=engine.vocabulary, grammar=ParagraphGrammar(engine.vocabulary))
    session = await menu.choose("pairwise", engine, judged).open(Question(QUESTION, (picture(0),)))
    assert isinstance(session, ComparesAnswers)
    answers = [Piece("answer", text) for text in ("9", "The picture shows 12")]
    chains = [Chain((Candidate(path=(0,), written=(1,), tokens=1, piece=one, end="answer"),)) for one in answers]
    labels = [processor.tokenizer.encode(label, add_special_tokens=False)[-1] for label in "12"]
    await engine.forget()
    for first, second in ((0, 1), (1, 0)):
        text = compared(qwen2_5_vl.PICTURE, *(f"The answer is: {answers[place].text}" for place in (first, second)))
        inputs = processor(text=[text], images=[picture(0).image], return_tensors="pt")
        with torch.inference_mode():
            expected = model(**inputs).logits[0, -1, labels].softmax(dim=-1)[0].item()
        cold, cached = [await session.compare(chains[first], chains[second]) for _ in range(2)]
        assert [cold.score, cached.score] == pytest.approx([expected] * 2, abs=1e-3)
        assert cold.prompt_tokens == inputs["input_ids"].shape[1]
        assert cached.cached_tokens > cold.cached_tokens
