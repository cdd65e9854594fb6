"""What vLLM is given for a question, without a model."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from cos.engines.load import Load
from cos.engines.settings import EngineSettings
from cos.engines.vllm import VllmEngine
from cos.engines.vocabulary import ChatPrompt
from cos.search.types import Question


class Spelling:
    """A vocabulary whose ids are characters."""

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(map(ord, text))

    encode_markup = encode


class Template:
    def apply_chat_template(self, messages: list[dict[str, Any]], **_: Any) -> str:
        return f"<{''.join(part.get('text', '') for part in messages[0]['content'])}>"


class Renderer:
    default_cmpl_tok_params = None

    async def render_cmpl_async(self, requests: list[Any], _: None) -> list[Any]:
        return requests


@pytest.mark.parametrize(("is_bare", "said"), [(False, "<Which?\nThink.>"), (True, "<Which?>")])
async def test_the_suffix_stands_behind_questions_and_not_behind_what_a_search_asks_by_itself(
    is_bare: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = ModuleType("vllm.inputs")
    inputs.TokensPrompt = dict  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.inputs", inputs)
    llm = SimpleNamespace(model_config=SimpleNamespace(max_model_len=100), renderer=Renderer())
    spelling = cast("Any", Spelling())
    prompt = ChatPrompt(spelling, Template(), suffix="Think.")
    settings = EngineSettings(role="policy", model="any")
    engine = VllmEngine(settings, llm, prompt, spelling, CollectorRegistry(), Load())
    rendered = await engine.render(Question("Which?", is_bare=is_bare))
    assert "".join(map(chr, rendered["prompt_token_ids"])) == said
