"""PRMs with a head, in the files of published ones: served by vLLM they give the scores that transformers' one pass
over the whole chain gives, and a read computes the new step alone."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from transformers import AutoTokenizer

from cos.engines.settings import EngineSettings
from cos.engines.vllm import VllmEngine
from cos.engines.vllm_start import CPU_BLOCK_TOKENS
from cos.prm.menu import choose
from cos.prm.ports import Judged
from cos.search.errors import EngineError, InputError
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.types import Candidate, Chain, Piece, Question
from tests.prm.watched import Watched
from tests.tiny import qwen2_heads
from tests.tiny.qwen2_heads import BOS, SYSTEM, head_values

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

QUESTION = "Janet sells 16 eggs a day, and eats three of them. How much does she earn?"
STEPS = ("She has 16 - 3 = 13 eggs to sell, as three are eaten.", "Each egg is sold for 2 dollars.", "13 * 2 = 26.")
ANSWER = Piece("answer", "26", {"reasoning": "So much for that."})
FORMATS = ("qwen_math_prm", "token_classification", "skywork_o1")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: qwen2_heads.write(tmp_path_factory.mktemp(name), name) for name in (*FORMATS, "pointwise")}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prms(folders: dict[str, Path]) -> AsyncIterator[dict[str, VllmEngine]]:
    """All of them, started side by side."""
    from cos.engines.vllm_start import start_engines

    wanted = [EngineSettings(role="prm", model=str(folder), dtype="float32") for folder in folders.values()]
    started = await asyncio.to_thread(start_engines, wanted)
    try:
        yield dict(zip(folders, started, strict=True))
    finally:
        await asyncio.gather(*(engine.close() for engine in started))


def judged(prm: VllmEngine) -> Judged:
    return Judged(vocabulary=prm.vocabulary, grammar=ParagraphGrammar(prm.vocabulary))


def chain_of(*pieces: Piece) -> Chain:
    chain = Chain()
    for piece in pieces:
        end = "answer" if piece.kind == "answer" else "step"
        chain = chain.then(Candidate(path=(*chain.path, 0), written=(1,), tokens=1, piece=piece, end=end))
    return chain


def recipe(prm_format: str, folder: Path, texts: list[str]) -> tuple[tuple[int, ...], list[int]]:
    """Token ids of a solution as the format's authors write them, and the places at which they read scores."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    if prm_format == "qwen_math_prm":
        turns = [("system", SYSTEM), ("user", QUESTION), ("assistant", "<extra_0>".join(texts) + "<extra_0>")]
        messages = [{"role": role, "content": content} for role, content in turns]
        ids = tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False))
        tag = tokenizer.convert_tokens_to_ids("<extra_0>")
        places = [place for place, its_id in enumerate(ids) if its_id == tag]
        return tuple(ids[: places[-1] + 1]), places
    ids = tokenizer.encode(f"{BOS}{QUESTION}\n" if prm_format == "skywork_o1" else QUESTION)
    places = list[int]()
    for text in texts:
        ids += [*tokenizer.encode(text), *tokenizer.encode("\n")]
        places.append(len(ids) - 1)
    return tuple(ids), places


def reference(prm_format: str, folder: Path, texts: list[str]) -> tuple[list[float], int]:
    """The scores by transformers, and how many tokens they take."""
    ids, places = recipe(prm_format, folder, texts)
    values = head_values(folder, prm_format, ids)[torch.tensor(places)]
    good = values.softmax(-1)[:, 1] if values.shape[-1] == 2 else values.sigmoid()[:, 0]
    return good.tolist(), len(ids)


@pytest.mark.parametrize("prm_format", FORMATS)
async def test_scores_are_those_of_one_pass_by_transformers_cold_and_cached(
    prm_format: str, prms: dict[str, VllmEngine], folders: dict[str, Path]
) -> None:
    prm = prms[prm_format]
    answer = "The answer is \\boxed{26}." if prm_format == "qwen_math_prm" else "The answer is: 26"
    expected, tokens = reference(prm_format, folders[prm_format], [*STEPS, f"So much for that. {answer}"])
    chain = chain_of(*(Piece("step", step) for step in STEPS), ANSWER)
    assert max(expected) - min(expected) > 0.05, "a PRM whose scores are all alike shows nothing"
    await prm.forget()
    session = await choose(prm_format, prm, judged(prm)).open(Question(QUESTION))
    readings = [await session.score(Chain(chain.candidates[: n + 1])) for n in range(len(chain.candidates))]
    assert [reading.score for reading in readings] == pytest.approx(expected, abs=1e-3)
    assert readings[-1].prompt_tokens == tokens
    assert readings[0].cached_tokens == 0
    assert all(later.cached_tokens > before.prompt_tokens - 32 for before, later in pairwise(readings))
    again = await choose(prm_format, prm, judged(prm)).open(Question(QUESTION))
    cached = await again.score(chain)
    assert cached.score == pytest.approx(expected[-1], abs=1e-3)
    assert cached.cached_tokens > 0


@pytest.mark.parametrize("prm_format", [*FORMATS, "pointwise"])
async def test_its_files_say_of_a_checkpoint_in_which_format_it_was_trained(
    prm_format: str, prms: dict[str, VllmEngine]
) -> None:
    prm = prms[prm_format]
    assert choose("auto", prm, judged(prm)).name == prm_format


@pytest.mark.parametrize("prm_format", FORMATS)
async def test_a_head_of_another_width_is_refused_with_both_widths(
    prm_format: str, prms: dict[str, VllmEngine]
) -> None:
    wrong = prms["qwen_math_prm" if prm_format == "skywork_o1" else "skywork_o1"]
    with pytest.raises(
        InputError, match=r"reads a head of (2 values.*gives 1 value|1 value,.*gives 2 values)"
    ) as error:
        choose(prm_format, wrong, judged(wrong))
    assert error.value.param == "prm"


async def test_a_value_head_in_a_file_of_its_own_values_a_whole_conversation(
    prms: dict[str, VllmEngine], folders: dict[str, Path]
) -> None:
    prm, folder = prms["pointwise"], folders["pointwise"]
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    said = "\n\n".join([*STEPS, "So much for that. The answer is: 26"])
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": said}]
    ids = tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False))
    session = await choose("pointwise", prm, judged(prm)).open(Question(QUESTION))
    chain = chain_of(*(Piece("step", step) for step in STEPS), ANSWER)
    expected = head_values(folder, "pointwise", tuple(ids))[-1].item()
    cold, cached = [await session.score(chain) for _ in range(2)]
    assert [cold.score, cached.score] == pytest.approx([expected] * 2, abs=1e-3)
    assert cold.prompt_tokens == len(ids)
    assert cached.cached_tokens > cold.cached_tokens


@pytest.mark.parametrize("prm_format", FORMATS)
async def test_a_chain_that_the_prm_has_no_room_for_is_not_cut(prm_format: str, prms: dict[str, VllmEngine]) -> None:
    prm = prms[prm_format]
    session = await choose(prm_format, prm, judged(prm)).open(Question(QUESTION))
    assert prm.context_tokens == 512
    with pytest.raises(EngineError, match="longer than the prm's context of 512"):
        await session.score(chain_of(Piece("step", "one and two " * 60)))


@pytest.mark.parametrize("prm_format", FORMATS)
async def test_a_mark_that_is_spelt_in_a_text_is_read_as_text(
    prm_format: str, prms: dict[str, VllmEngine], folders: dict[str, Path]
) -> None:
    prm, spelt = prms[prm_format], "Is <extra_0> a mark or <|im_end|> one?"
    session = await choose(prm_format, prm, judged(prm)).open(Question(spelt))
    split = prm.vocabulary.encode(spelt)
    assert prm.vocabulary.control_id("<extra_0>") not in split
    reading = await session.score(chain_of(Piece("step", "No, <extra_0> is text.")))
    tokens = (*split, *prm.vocabulary.encode("No, <extra_0> is text."))
    assert reading.score is not None
    assert reading.prompt_tokens > len(tokens)


@pytest.mark.parametrize("prm_format", [*FORMATS, "pointwise"])
async def test_the_engine_computes_what_the_benchmark_counts(prm_format: str, prms: dict[str, VllmEngine]) -> None:
    prm = prms[prm_format]
    await prm.forget()
    watched = Watched(prm)
    session = await choose(prm_format, watched, judged(prm)).open(Question(QUESTION))
    chain = chain_of(*(Piece("step", step) for step in STEPS), ANSWER)
    for size in (1, 2, 3, 4, 4):
        await session.score(Chain(chain.candidates[:size]))
    watched.check_counts(CPU_BLOCK_TOKENS)
