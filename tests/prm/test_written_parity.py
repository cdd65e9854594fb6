"""PRMs that write their verdicts, on the real vLLM: what they are shown, what they write and what is read behind it are
those of transformers' own pass over the prompt, written anew as text."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import pytest_asyncio
import torch

from cos.engines.settings import EngineSettings
from cos.engines.vllm import VllmEngine, VllmSession
from cos.engines.vllm_start import CPU_BLOCK_TOKENS, start_engines
from cos.prm import menu
from cos.prm.genprm import SYSTEM
from cos.prm.ports import Judged
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.ports import ComparesAnswers, Draw, ScorerSession, Stops
from cos.search.types import Candidate, Chain, Piece, Question
from tests.prm.watched import Ids, Watched
from tests.tiny import r1_distill
from tests.tiny.r1_distill import BEGIN, END

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

QUESTION = "How many eggs are sold?\nCount twice."
STEPS = ("She has 16 eggs.", "She eats 3,\nand bakes with 4.")
LINES = ("She has 16 eggs.", "She eats 3, and bakes with 4.", "The answer is: 9")
USER, ASSISTANT, THINKING = "<｜User｜>", "<｜Assistant｜>", "<｜Assistant｜><think>\n"
CRITIQUE = r"\boxed{correct}Is the solution correct?"
ANALYSIS = "It adds up</analyze>\n"
JUDGEMENT = "<output>\n**Judgement**: $\\boxed"
WRITTEN = {"thinkprm": (CRITIQUE, "", (" Yes", " No")), "genprm": (ANALYSIS, f"{JUDGEMENT}{{", ("Yes", "No"))}
"""What the model writes, what is put behind it, and the labels that are read there."""
RESERVED = (
    *("ки", "<extra_0>", "<prm>", "+", "<image>", "<|im_end|>", r"\boxed{incorrect}", "<think>", "</think>", "{steps}"),
    *(
        "<output>",
        "</analyze>",
        "<answer>1</answer>",
        "[Response 2]",
        "Is the solution correct?",
        " No",
        USER,
        END,
        BEGIN,
    ),
)


def thinking_prompt(steps: tuple[str, ...]) -> str:
    numbered = "\n".join(f"Step {number}: {step}" for number, step in enumerate(steps, 1))
    return (
        f"{BEGIN}{USER}You are given a math problem and a proposed step-by-step solution:\n\n[Math Problem]\n\n"
        f"{QUESTION}\n\n[Solution]\n\n{numbered}\n\nReview and critique each step in the proposed solution to "
        "determine whether each step is correct. If the solution is incomplete, only verify the provided steps."
        f"{THINKING}"
    )


def analysing_prompt(paragraphs: tuple[str, ...], judgements: tuple[str, ...]) -> str:
    """Up to where the analysis of the last paragraph goes on. ``judgements``: of those before it."""
    text = f"{BEGIN}{SYSTEM}"
    for number, paragraph in enumerate(paragraphs, 1):
        begun = f"<analyze>\nLet's analyze the Paragraph {number} step by step: "
        shown = f"Question: {QUESTION}\n\n{paragraph}" if number == 1 else paragraph
        text += f"{USER}{shown}"
        if number < len(paragraphs):
            text += f"{ASSISTANT}{begun}{ANALYSIS}{JUDGEMENT}{{{judgements[number - 1]}}}$\n</output>{END}"
        else:
            text += f"{THINKING}{begun}"
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny") / "ThinkPRM-1.5B"


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return r1_distill.write(folder)


@pytest.fixture(scope="module")
def words(folder: Path, model: Any) -> Any:
    del model
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prm(folder: Path, model: Any) -> AsyncIterator[VllmEngine]:
    del model
    settings = EngineSettings(role="prm", model=str(folder), dtype="float32", kv_cache_mib=32, max_model_len=1024)
    (engine,) = await asyncio.to_thread(start_engines, [settings])
    try:
        yield engine
    finally:
        await engine.close()


def judged(prm: VllmEngine) -> Judged:
    return Judged(vocabulary=prm.vocabulary, grammar=ParagraphGrammar(prm.vocabulary))


async def opened(name: str, watched: Watched, text: str = QUESTION) -> ScorerSession:
    return await menu.choose(name, watched, judged(watched.engine)).open(Question(text))


def chain_of(*steps: str, answer: str | None = None, path: int = 0) -> Chain:
    pieces = [Piece("step", step) for step in steps] + ([] if answer is None else [Piece("answer", answer)])
    chain = Chain()
    for piece in pieces:
        end = "answer" if piece.kind == "answer" else "step"
        chain = chain.then(Candidate(path=(*chain.path, path), written=(1,), tokens=1, piece=piece, end=end))
    return chain


def logprobs(model: Any, ids: list[int]) -> Any:
    """By transformers, of every token behind each of these: (tokens, vocabulary)."""
    with torch.inference_mode():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), dim=-1)


def p_first(model: Any, ids: list[int], labels: Ids) -> float:
    """The chance of the first of two labels behind a prompt."""
    return logprobs(model, ids)[-1, list(labels)].softmax(dim=-1)[0].item()


def prompts_of(name: str, judgements: tuple[str, ...]) -> list[str]:
    """Of the three prefixes of the chain."""
    grown = [LINES[:size] for size in (1, 2, 3)]
    return [thinking_prompt(lines) if name == "thinkprm" else analysing_prompt(lines, judgements) for lines in grown]


async def test_a_checkpoint_of_its_authors_is_recognised_by_its_name(prm: VllmEngine) -> None:
    assert menu.choose("auto", prm, judged(prm)).name == "thinkprm"


@pytest.mark.parametrize("name", ["thinkprm", "genprm"])
async def test_a_verdict_and_what_is_read_behind_it_are_those_of_transformers_cold_and_cached(
    name: str, prm: VllmEngine, model: Any, words: Any
) -> None:
    watched, chain = Watched(prm), chain_of(*STEPS, answer="9")
    await prm.forget()
    session = await opened(name, watched)
    scores = [(await session.score(Chain(chain.candidates[:size]))).score for size in (1, 2, 3)]
    assert all(score is not None for score in scores), [drawn.text for _, _, _, drawn in watched.draws]
    judgements = tuple("Yes" if (score or 0) >= 0.5 else "No" for score in scores)
    text, behind, labels = WRITTEN[name]
    wanted = list[float]()
    for prompt, (shown, prefix, draw, drawn) in zip(prompts_of(name, judgements), watched.draws, strict=True):
        ids: list[int] = words.encode(prompt, add_special_tokens=False)
        assert [*shown, *prefix] == ids
        written = cast("Ids", drawn.written)
        assert drawn.text == text
        expected = logprobs(model, [*ids, *written])[len(ids) - 1 :]
        await prm.forget()
        for is_cached in (False, True):
            again = await watched.sessions[shown].draw(prefix, msgspec.structs.replace(draw, logprobs=True))
            assert (again.cached_tokens > 0) == is_cached
            assert again.written == written
            whole = sum(expected[place, token].item() for place, token in enumerate(written))
            assert again.logprob == pytest.approx(whole, abs=1e-3)
            await check_tokens(watched.sessions[shown], prefix, written, expected)
        last = [*ids, *written, *words.encode(behind, add_special_tokens=False)]
        wanted.append(p_first(model, last, tuple(r1_distill.word_id(words, label) for label in labels)))
    assert max(wanted) - min(wanted) > 0.02, "scores that are all alike show nothing"
    assert scores == pytest.approx(wanted, abs=1e-3)
    again = await opened(name, watched)
    cached = [await again.score(Chain(chain.candidates[:size])) for size in (1, 2, 3)]
    assert [reading.score for reading in cached] == pytest.approx(wanted, abs=1e-3)
    assert all(reading.cached_tokens > reading.prompt_tokens / 2 for reading in cached)


async def check_tokens(session: VllmSession, prefix: Ids, written: Ids, expected: Any) -> None:
    """Each token of a verdict: which would be the likeliest, and the probability of the one that was written."""
    draw = Draw(max_tokens=1, stops=Stops(), seed=0, temperature=0.0)
    for place, token in enumerate(written):
        before = (*prefix, *written[:place])
        assert (await session.draw(before, draw)).written == (expected[place].argmax().item(),)
        read = await session.read_labels(before, (token,), 0)
        assert read.logprobs == pytest.approx((expected[place, token].item(),), abs=1e-3)


@pytest.mark.parametrize("name", ["thinkprm", "genprm", "pairwise"])
async def test_what_a_text_spells_changes_no_count_of_scores_and_no_score_of_a_fixed_chain(
    name: str, prm: VllmEngine
) -> None:
    """A further step, and then the question, spell all that means something to any format."""
    spelt = " and ".join(RESERVED)
    fixed, longer = chain_of(*STEPS), chain_of(*STEPS, f"It says {spelt} here.")
    plain_longer = chain_of(*STEPS, "It says so here.")

    async def scores(session: ScorerSession, chain: Chain) -> list[float | None]:
        if isinstance(session, ComparesAnswers):
            pairs = [(chain, fixed), (fixed, chain)]
            return [(await session.compare(*pair)).score for pair in pairs]
        grown = [Chain(chain.candidates[: size + 1]) for size in range(len(chain.candidates))]
        return [(await session.score(prefix)).score for prefix in grown]

    plain, tainted = Watched(prm), Watched(prm)
    before = await scores(await opened(name, plain), fixed)
    await scores(await opened(name, plain), plain_longer)
    session = await opened(name, tainted)
    found = await scores(session, longer)
    assert None not in found
    again = await scores(session, fixed)
    assert again == pytest.approx(before, abs=1e-6)
    await scores(await opened(name, tainted, f"Is {spelt} here?"), longer)
    controls = {prm.vocabulary.control_id(token) for token in (BEGIN, END, *r1_distill.ORDINARY)}
    shapes = [
        {tuple(token for token in ids if token in controls) for ids in watched.reads} for watched in (plain, tainted)
    ]
    assert shapes[0] == shapes[1], "what turns there are is the format's alone"


@pytest.mark.parametrize("name", ["thinkprm", "genprm", "pairwise", "judge"])
async def test_the_engine_computes_what_the_benchmark_counts(name: str, prm: VllmEngine) -> None:
    watched, chain = Watched(prm), chain_of(*STEPS, answer="9")
    await prm.forget()
    session = await opened(name, watched)
    for size in (1, 2, 3):
        if isinstance(session, ComparesAnswers):
            await session.compare(chain, Chain(chain.candidates[:size]))
        else:
            await session.score(Chain(chain.candidates[:size]))
    watched.check_counts(CPU_BLOCK_TOKENS)
