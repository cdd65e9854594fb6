"""The scores of a growing chain through the real vLLM are those of one pass of transformers over the whole prompt, as
the authors of each format compute them. The prompt is written anew, as text, and encoded by the model's tokenizer."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cos.engines.launch import launch
from cos.engines.ports import HasCaches, Runtime
from cos.engines.settings import EngineSettings
from cos.engines.vllm import VllmEngine
from cos.engines.vllm_start import CPU_BLOCK_TOKENS
from cos.prm import menu
from cos.prm.ports import Judged
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.types import Candidate, Chain, Piece, Question, Turn
from tests.prm.published import QUESTION, Published, chain, growing, texts
from tests.prm.tiny_text import tokenizer, write_model
from tests.prm.watched import Watched

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny_text")
    write_model(made)
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prm(folder: Path) -> AsyncIterator[Runtime]:
    engines = await launch(EngineSettings(role="prm", model=str(folder), dtype="float32", kv_cache_mib=64), None)
    try:
        yield engines.policy
    finally:
        await engines.close()


@pytest.fixture(scope="module")
def transformer(folder: Path) -> Any:
    from transformers import Qwen2ForCausalLM

    return Qwen2ForCausalLM.from_pretrained(folder).eval()


def one_pass(published: Published, model: Any) -> list[float]:
    """The scores of one pass over a whole prompt."""
    import torch

    words = tokenizer()
    ids: list[int] = words.encode(published.text, add_special_tokens=False)
    with torch.inference_mode():
        return published.scores(ids, model(torch.tensor([ids])).logits[0], words)


@pytest.mark.parametrize("name", texts(), ids=lambda name: Path(name).stem)
async def test_growing_reads_are_one_pass_cold_and_cached(name: str, prm: Runtime, transformer: Any) -> None:
    wanted = one_pass(texts()[name], transformer)
    assert len(wanted) == 5
    assert max(wanted) - min(wanted) > 0.05, "the scores must differ for the test to say anything"
    assert isinstance(prm, HasCaches)
    await prm.forget()
    cold, _ = await growing(name, prm, Question(QUESTION))
    again, cached = await growing(name, prm, Question(QUESTION))
    assert cached > 0
    assert cold == pytest.approx(wanted, abs=1e-3)
    assert again == pytest.approx(wanted, abs=1e-3)


RESERVED = ("ки", " ки", "<extra_0>", "<prm>", "+", "<image>", "<|im_end|>", " \n\n\n\n", "<IMG_CONTEXT>", " +")


@pytest.mark.parametrize("name", texts(), ids=lambda name: Path(name).stem)
async def test_what_a_step_spells_changes_no_score_before_it_and_no_count(name: str, prm: Runtime) -> None:
    """The five scores of a chain stay, to the last bit that batching leaves, whatever a sixth step spells."""
    judged = Judged(vocabulary=prm.vocabulary, grammar=ParagraphGrammar(prm.vocabulary))
    fixed, _ = await growing(name, prm, Question(QUESTION))
    session = await menu.choose(name, prm, judged).open(Question(QUESTION))
    whole = chain()
    spelt = Piece("step", f"It says {' and '.join(RESERVED)} here")
    longer = whole.then(Candidate(path=(*whole.path, 0), written=(1,), tokens=1, piece=spelt, end="step"))
    last = (await session.score(longer)).score
    assert last is not None
    read = [(await session.score(Chain(longer.candidates[:size]))).score for size in range(1, 6)]
    assert read == pytest.approx(fixed, abs=1e-6)


async def test_a_conversation_stands_before_the_question(prm: Runtime, transformer: Any) -> None:
    alone = texts()["visualprm"]
    told = alone._replace(text=alone.text.replace(QUESTION, f"User: Hello\n\nAssistant: Hi\n\nUser: {QUESTION}"))
    question = Question(QUESTION, history=(Turn("user", "Hello"), Turn("assistant", "Hi")))
    scores, _ = await growing("visualprm", prm, question)
    assert scores == pytest.approx(one_pass(told, transformer), abs=1e-3)


async def test_the_engine_computes_what_the_benchmark_counts(prm: Runtime) -> None:
    assert isinstance(prm, VllmEngine)
    await prm.forget()
    watched = Watched(prm)
    await growing("visualprm", watched, Question(QUESTION))
    watched.check_counts(CPU_BLOCK_TOKENS)
