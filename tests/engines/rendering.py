"""What `cos.engines.vllm_start` starts, without the process that computes: it renders prompts, and cannot run them."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from cos.engines.architectures import engine_overrides, register_configs
from cos.engines.chat import ChatPrompt
from cos.engines.checkpoint import templater
from cos.engines.load import Load
from cos.engines.settings import EngineSettings, Role
from cos.engines.vllm import VllmEngine
from cos.engines.vocabulary import HfVocabulary


def rendering_engine(folder: Path, role: Role = "policy", *, context_tokens: int | None = None) -> VllmEngine:
    """An engine for a checkpoint's prompts. ``context_tokens``: those of the checkpoint unless given."""
    from vllm import AsyncEngineArgs
    from vllm.renderers import renderer_from_config

    register_configs()
    settings = EngineSettings(role=role, model=str(folder))
    args = AsyncEngineArgs(
        model=str(folder),
        limit_mm_per_prompt={"image": settings.max_images, "video": 0},
        enforce_eager=True,
        generation_config="vllm",
        dtype="float32",
        mm_processor_cache_gb=0,  # every rendering brings its pixels
        **engine_overrides(str(folder), trust_remote_code=False),
    )
    config = args.create_engine_config()
    renderer: Any = renderer_from_config(config)
    vocabulary = HfVocabulary(renderer.get_tokenizer())
    prompt = ChatPrompt(vocabulary, templater(settings, renderer.get_tokenizer()))
    model = SimpleNamespace(
        max_model_len=context_tokens or config.model_config.max_model_len, runner_type=config.model_config.runner_type
    )
    llm = SimpleNamespace(model_config=model, renderer=renderer, errored=False)
    return VllmEngine(settings, llm, prompt, vocabulary, CollectorRegistry(), Load())


def _call(look: Callable[[], Any]) -> Any:
    return look()


@contextmanager
def looking_here() -> Generator[None]:
    """vLLM looks at a model's class in a process of its own, which takes 20 s where it has not looked before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vllm.model_executor.models.registry._run_in_subprocess", _call)
        yield
