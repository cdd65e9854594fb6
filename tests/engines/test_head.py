"""Models with a head in place of words: vLLM reads their values, and says that they cannot write."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cos.engines.launch import launch
from cos.engines.ports import Runtime
from cos.engines.settings import EngineSettings
from cos.search.errors import EngineError
from cos.search.ports import Draw, Stops
from cos.search.prompt import Prompt
from cos.search.types import Turn
from tests.engines.small_tokenizer import tokenizer

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

PROMPT = Prompt((Turn("user", "How much is 2 + 3? "),), "raw")


def write_classifier(folder: Path) -> None:
    """A small language model with random weights and a head of two values."""
    import torch
    from transformers import Qwen2Config, Qwen2ForSequenceClassification

    words: Any = tokenizer()
    words.pad_token = words.eos_token = "<|im_end|>"
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=words.pad_token_id,
    )
    config.num_labels = 2
    Qwen2ForSequenceClassification(config).save_pretrained(folder)
    words.save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("classifier")
    write_classifier(made)
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def classifier(folder: Path) -> AsyncIterator[Runtime]:
    engines = await launch(EngineSettings(role="prm", model=str(folder), dtype="float32"), None)
    try:
        yield engines.policy
    finally:
        await engines.close()


def reference(folder: Path, token_ids: tuple[int, ...]) -> list[float]:
    """The head's values at the last token, by transformers."""
    import torch
    from transformers import Qwen2ForSequenceClassification

    model = Qwen2ForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        return model(torch.tensor([token_ids])).logits[0].tolist()


async def test_the_head_is_read_at_the_last_token_of_every_prefix(classifier: Runtime, folder: Path) -> None:
    assert classifier.abilities == {"head"}
    session = await classifier.open(PROMPT)
    prompt, written = classifier.vocabulary.encode(PROMPT.turns[0].text), ()
    for step in ("First I look at both numbers. " * 3, "Then I add them.", " It is 5."):
        written += classifier.vocabulary.encode(step)
        read = await session.read_head(written, 0)
        assert read.values == pytest.approx(reference(folder, (*prompt, *written)), abs=1e-4)
        assert read.prompt_tokens == session.prompt_tokens + len(written)
    assert read.cached_tokens > 0


async def test_a_model_with_a_head_answers_probes(classifier: Runtime) -> None:
    before = classifier.steps
    await classifier.probe()
    assert classifier.steps > before


async def test_a_model_with_a_head_cannot_write(classifier: Runtime) -> None:
    session = await classifier.open(PROMPT)
    with pytest.raises(EngineError, match="its model has a head, and does not write"):
        await session.draw((), Draw(max_tokens=2, stops=Stops(), seed=1))
    with pytest.raises(EngineError, match="its model has a head, and does not write"):
        await session.read_labels((), (1, 2), 0)
    assert classifier.is_alive
