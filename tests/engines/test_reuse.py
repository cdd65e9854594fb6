"""What an engine has computed for a chain it does not compute again, by vLLM's own counters.

A prefix cache keeps whole blocks. So a request may compute the remainder of the block in which what it shares with the
last one ends, and nothing else that was there before.
"""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
from PIL import Image

from cos.benchmarks.cost import Counters, measure, read_counters, since
from cos.benchmarks.setting import Setting
from cos.checkpoints import heldout
from cos.engines.launch import Engines
from cos.engines.ports import HasCaches, HasMetrics, Runtime
from cos.engines.scripted import ScriptedEngine
from cos.evaluation.in_process import OpenModels
from cos.prm.choice import PrmChoice
from cos.prm.matching import match
from cos.search.grammars.cos import CosGrammar
from cos.search.ports import Draw
from cos.search.prompt import question_prompt
from cos.search.types import Candidate, Chain, Picture, Piece, Question

pytestmark = pytest.mark.asyncio(loop_scope="session")

STEPS = 4
LEDGER = 150
"""Nobody else asks about it."""


@dataclass(frozen=True, slots=True)
class Cached:
    """Engines, and how many tokens a block of their prefix caches has."""

    engines: Engines
    block: int

    @property
    def prm(self) -> Runtime:
        assert self.engines.prm is not None
        return self.engines.prm


@pytest.fixture(params=["scripted", pytest.param("vllm", marks=pytest.mark.real)])
def cached(request: pytest.FixtureRequest) -> Iterator[Cached]:
    """A policy and a PRM, both ready."""
    if request.param == "vllm":
        yield Cached(request.getfixturevalue("real_engines"), 32)
    else:
        yield Cached(Engines(ScriptedEngine(), ScriptedEngine()), 1)


def question() -> Question:
    problem = heldout()[LEDGER]
    return Question(problem.question, (Picture(Image.open(io.BytesIO(problem.image_png)).convert("RGB"), problem.id),))


async def bill(engine: Runtime, requests: AsyncIterator[Counters]) -> int:
    """Prompt tokens that an engine computed for some requests, from an empty cache: by its own counters, which must say
    what its replies say; by the replies where an engine has no counters."""
    assert isinstance(engine, HasMetrics)
    await emptied(engine)
    before, replied = read_counters(engine.registry), Counters(0, 0)
    async for reply in requests:
        replied += reply
    if (counted := since(before, read_counters(engine.registry))) is None:
        return int(replied.computed)
    end = time.monotonic() + 60
    while counted.prompt < replied.prompt and time.monotonic() < end:
        await asyncio.sleep(0.05)  # it counts a request just after it has returned it
        counted = since(before, read_counters(engine.registry)) or counted
    assert (counted.prompt, counted.cached) == (replied.prompt, replied.cached)
    return int(counted.computed)


async def emptied(engine: Runtime) -> None:
    """Has it forget prefixes, but no pictures."""
    assert isinstance(engine, HasCaches)
    await engine.forget(prefixes_only=True)


async def written(engines: Engines) -> list[Candidate]:
    """The first steps of a chain, drawn one by one."""
    found: list[Candidate] = []
    assert len([reply async for reply in writing(engines.policy, found)]) == len(found) == STEPS
    return found


async def writing(policy: Runtime, found: list[Candidate], *, forgetful: bool = False) -> AsyncIterator[Counters]:
    """Draws a chain step by step into ``found``. ``forgetful``: with an empty cache for each of them."""
    prompt, stops = question_prompt(question()), CosGrammar(policy.vocabulary).stops
    session = await policy.open(prompt)
    for number in range(STEPS):
        if forgetful:
            await emptied(policy)
            session = await policy.open(prompt)
        drawn = await session.draw(
            Chain(tuple(found)).prefix, Draw(max_tokens=200, stops=stops, seed=1, temperature=0.0)
        )
        assert drawn.finish == "stop"
        path, piece = (0,) * (number + 1), Piece("step", drawn.text)
        found.append(Candidate(path=path, written=drawn.written, tokens=drawn.tokens, piece=piece, end="step"))
        yield Counters(drawn.prompt_tokens, drawn.cached_tokens)


async def reading(cached: Cached, chain: list[Candidate], *, forgetful: bool = False) -> AsyncIterator[Counters]:
    """Reads a chain step by step. ``forgetful``: with an empty cache for each of them."""
    prm = match(cached.engines.policy, cached.prm).scorer
    assert prm is not None
    session = await prm.open(question())
    for length in range(1, STEPS + 1):
        if forgetful:
            await emptied(cached.prm)
            session = await prm.open(question())
        read = await session.score(Chain(tuple(chain[:length])))
        yield Counters(read.prompt_tokens, read.cached_tokens)


async def need_of_reads(cached: Cached, chain: list[Candidate]) -> int:
    """The prompt once, and each step with its tag once."""
    prompt = (await cached.prm.open(question_prompt(question()))).prompt_tokens
    return prompt + sum(candidate.tokens + 1 for candidate in chain)


async def test_reading_a_chain_computes_its_prompt_once_and_each_step_once(cached: Cached) -> None:
    chain = await written(cached.engines)
    need = await need_of_reads(cached, chain)
    assert need <= await bill(cached.prm, reading(cached, chain)) <= need + (STEPS - 1) * cached.block


async def test_writing_a_chain_computes_its_prompt_once(cached: Cached) -> None:
    """What it writes is computed while it is written."""
    policy = cached.engines.policy
    need = (await policy.open(question_prompt(question()))).prompt_tokens
    assert need <= await bill(policy, writing(policy, [])) <= need + (STEPS - 1) * cached.block


async def test_a_cache_that_forgets_between_requests_breaks_both_bounds(cached: Cached) -> None:
    """So the two tests above can fail."""
    chain, policy = await written(cached.engines), cached.engines.policy
    prompt = (await policy.open(question_prompt(question()))).prompt_tokens
    assert await bill(policy, writing(policy, [], forgetful=True)) > prompt + (STEPS - 1) * cached.block
    need = await need_of_reads(cached, chain)
    assert await bill(cached.prm, reading(cached, chain, forgetful=True)) > need + (STEPS - 1) * cached.block


@pytest.mark.parametrize("strategy", ["best_of_n", "beam"])
async def test_a_search_computes_each_distinct_step_once_and_at_most_a_block_a_read(
    cached: Cached, strategy: str
) -> None:
    for engine in cached.engines.all:
        await emptied(engine)
    opened = OpenModels(cached.engines, match(cached.engines.policy, cached.engines.prm), PrmChoice("cos-tiny"))
    facts = await measure(opened, heldout()[LEDGER : LEDGER + 2], Setting(strategy=strategy, n=4), 0, 1)
    shared, computed, reads = (facts[name] for name in ("shared_tokens", "computed_tokens", "prm_reads"))
    assert isinstance(shared, int)
    assert isinstance(computed, int)
    assert isinstance(reads, int)
    assert facts["counted_by"] == ("vllm" if cached.block > 1 else "replies")
    assert shared <= computed <= shared + reads * cached.block
