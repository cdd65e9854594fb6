"""What vLLM is given for a prompt, without a model."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image
from prometheus_client import CollectorRegistry

from cos.engines.chat import ChatPrompt
from cos.engines.load import Load
from cos.engines.settings import EngineSettings
from cos.engines.vllm import VllmEngine
from cos.search.errors import EngineError
from cos.search.prompt import Prompt, bare_prompt, question_prompt
from cos.search.types import Picture, Question

PICTURE = Picture(Image.new("RGB", (4, 4)), "digest")


class Spelling:
    """A vocabulary whose ids are characters."""

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(map(ord, text))

    encode_markup = encode

    def decode(self, token_ids: tuple[int, ...]) -> str:
        return "".join(map(chr, token_ids))

    def control_id(self, token: str) -> None:
        del token


class Template:
    def apply_chat_template(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool, **_: Any) -> str:
        said = (f"<{''.join(part.get('text', '*') for part in message['content'])}>" for message in messages)
        return "".join(said) + ("=" if add_generation_prompt else "")


class Renderer:
    default_cmpl_tok_params = None

    async def render_cmpl_async(self, requests: list[Any], _: None) -> list[Any]:
        return requests


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (question_prompt(Question("Which?"), suffix="Think."), "<Which?\nThink.>="),
        (question_prompt(Question("Which?", (PICTURE,)), instruction="Count."), "<Count.><*Which?>="),
        (bare_prompt("Best?", Question("Which?", (PICTURE,))), "<*Best?>="),
    ],
)
async def test_vllm_is_given_the_prompt_as_the_chat_template_has_it_and_the_picture(
    prompt: Prompt, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = ModuleType("vllm.inputs")
    inputs.TokensPrompt = dict  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.inputs", inputs)
    llm = SimpleNamespace(model_config=SimpleNamespace(max_model_len=100), renderer=Renderer())
    spelling = cast("Any", Spelling())
    settings = EngineSettings(role="policy", model="any")
    engine = VllmEngine(settings, llm, ChatPrompt(spelling, Template()), spelling, CollectorRegistry(), Load())
    rendered = await engine.render(prompt)
    assert "".join(map(chr, rendered["prompt_token_ids"])) == said
    assert rendered.get("multi_modal_data") == ({"image": [PICTURE.image]} if prompt.pictures else None)


async def test_a_single_token_is_refused_on_cpu_where_it_would_end_the_process_of_vllm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cos.engines.vllm.is_cpu_build", lambda: True)
    llm = SimpleNamespace(model_config=SimpleNamespace(max_model_len=100, runner_type="generate"), errored=False)
    spelling = cast("Any", Spelling())
    settings = EngineSettings(role="policy", model="any")
    engine = VllmEngine(settings, llm, ChatPrompt(spelling, Template()), spelling, CollectorRegistry(), Load())
    with pytest.raises(EngineError, match="cannot read a prompt of a single token on CPU"):
        await engine.generate({"type": "token", "prompt_token_ids": [1]}, (), None, 0, [])
    assert engine.is_alive
