"""A vision-language reward model with a value head in a file of its own, as Skywork-VL-Reward is published: vLLM gives
the value that transformers gives, with the picture in view."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cos.engines.launch import launch
from cos.engines.ports import Runtime
from cos.engines.settings import EngineSettings
from cos.prm.menu import choose
from cos.prm.ports import Judged
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.types import Candidate, Chain, Picture, Piece, Question
from tests.tiny import qwen2_5_vl
from tests.tiny.parts import WIDTH

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

QUESTION = "How many rows are there?"
PICTURES = [Image.effect_noise((112, 84), 90 + shade).convert("RGB") for shade in (0, 30)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("reward")
    qwen2_5_vl.write(made)
    weights = dict.fromkeys(load_file(made / "model.safetensors"), "model.safetensors")
    index = {"metadata": {}, "weight_map": weights}
    (made / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    torch.manual_seed(0)
    head = {"v_head.summary.weight": torch.randn(1, WIDTH), "v_head.summary.bias": torch.randn(1)}
    save_file(head, made / "value_head.safetensors", {"format": "pt"})
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prm(folder: Path) -> AsyncIterator[Runtime]:
    engines = await launch(EngineSettings(role="prm", model=str(folder), dtype="float32"), None)
    try:
        yield engines.policy
    finally:
        await engines.close()


def reference(folder: Path, picture: Image.Image, said: str) -> float:
    """The value at the last token, by transformers and the head's weights."""
    from transformers import AutoProcessor, Qwen2_5_VLModel

    processor: Any = AutoProcessor.from_pretrained(folder)
    asked = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": [{"type": "text", "text": said}]}]
    text = processor.apply_chat_template(turns, tokenize=False)
    model: Any = Qwen2_5_VLModel.from_pretrained(folder, dtype=torch.float32)
    head = load_file(folder / "value_head.safetensors")
    with torch.inference_mode():
        hidden = model(**processor(text=[text], images=[picture], return_tensors="pt")).last_hidden_state[0, -1]
    return (hidden @ head["v_head.summary.weight"][0] + head["v_head.summary.bias"][0]).item()


async def test_an_answer_has_the_value_that_transformers_gives_it_with_the_picture_in_view(
    prm: Runtime, folder: Path
) -> None:
    assert prm.abilities == {"head"}
    scorer = choose("pointwise", prm, Judged(vocabulary=prm.vocabulary, grammar=ParagraphGrammar(prm.vocabulary)))
    piece = Piece("answer", "3")
    chain = Chain((Candidate(path=(0,), written=(1,), tokens=1, piece=piece, end="answer"),))
    values = list[float]()
    for number, picture in enumerate(PICTURES):
        session = await scorer.open(Question(QUESTION, (Picture(picture, f"picture {number}"),)))
        values.append(reference(folder, picture, "The answer is: 3"))
        for _ in range(2):
            assert (await session.score(chain)).score == pytest.approx(values[-1], abs=1e-3)
    assert abs(values[0] - values[1]) > 0.01, "a model that does not look at the picture shows nothing"
