"""What a search costs beside its engines: candidate steps a second, and memory, over engines that answer at once.

The engines are scripted, with no latency and few texts, so that what is measured is the search: places and seeds,
budgets, requests, parsing, scores, ranking, events. One process, one thread; the speed is by processor time.
"""

import asyncio
import gc
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tqdm import tqdm

from cos.engines import scripted, scripted_vocabulary, story
from cos.engines.scripted import Script, ScriptedEngine
from cos.evaluation.provenance import Facts
from cos.prm.matching import match
from cos.search.grammars.cos import Step, answer_text, step_text
from cos.search.models import Models
from cos.search.prompt import Prompt
from cos.search.result import Result
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.terms import Sampling
from cos.search.tree import Tree
from cos.search.types import Chain, Question

CHAIN_STEPS = 4
WORDS = ("look", "count", "add", "carry", "compare", "check", "write", "sum")
LAST_WORD = "ok"
"""Ends every step, and stands nowhere else."""
SEARCHES_A_LEVEL = 2_000
"""Searches that every level of concurrency runs, so that all do the same work."""
LIVE = 200
"""Searches whose memory is measured."""
WAIT_S, SETTLE_S = 3_600.0, 120.0
"""How long their reads hold them, and how long they may take to come to that."""
POLL_S = 0.1


def brief(prompt: Prompt, written: str, rng: random.Random) -> str:
    """A short step in one of a few words; after some of them an answer."""
    del prompt
    done = written.count(f">{LAST_WORD}<")
    if done >= CHAIN_STEPS:
        return answer_text(str(rng.randrange(4)), first=False)
    return step(rng.choice(WORDS), rng.choice(WORDS), first=not done)


@cache
def step(one: str, other: str, *, first: bool) -> str:
    """A step as the policy writes it: what it takes to put one together is no part of a search."""
    return step_text(Step(one, other, LAST_WORD), first=first)


def verdict(prompt: Prompt, written: str) -> float:
    """A score that follows from the text."""
    del prompt
    return (len(written) * 37 % 101) / 101


@dataclass(frozen=True, slots=True)
class Level:
    """What was measured at one number of searches at once."""

    concurrency: int
    steps: int
    seconds: float

    def facts(self) -> Facts:
        """As numbers."""
        return {
            "concurrency": self.concurrency,
            "candidates": self.steps,
            "processor_seconds": self.seconds,
            "steps_per_s": self.steps / self.seconds,
        }


def models() -> Models:
    """A policy and a PRM that answer at once, and are busy enough that nothing is begun ahead."""
    return match(ScriptedEngine(Script(writer=brief, sequences=0)), ScriptedEngine(Script(judge=verdict)))


async def search(asked: Models, number: int, strategy: str, n: int) -> Result:
    """One search."""
    spec = SearchSpec(strategy, {"n": n}, sampling=Sampling(seed=number), explain=False)
    return await solve(Question(f"Question {number}?"), spec, asked)


async def measure_level(concurrency: int, searches: int, strategy: str, n: int, bar: "tqdm[Any]") -> Level:
    """Runs so many searches, so many at a time."""
    asked, numbers, steps = models(), iter(range(searches)), 0

    async def worker() -> None:
        nonlocal steps
        for number in numbers:
            found = await search(asked, number, strategy, n)
            steps += found.usage.candidates
            bar.update()

    started = time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())
    return Level(concurrency, steps, time.process_time() - started)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one live search."""

    text: float
    """Token ids and strings of its candidates and chains."""
    other: float
    candidates: float
    """How many each search held: where it was found waiting varies with the order in which reads come."""


async def memory_per_search(searches: int, strategy: str, n: int) -> Memory:
    """Memory of one live search where many wait for reads halfway; what the scripted engines keep for themselves is
    left out. Errors: TimeoutError when they do not come that far."""
    halfway = n * CHAIN_STEPS // 2

    def held() -> tuple[Models, Callable[[], bool]]:
        reads = 0

        def judge(prompt: Prompt, written: str) -> float:
            nonlocal reads
            reads += 1
            return verdict(prompt, written)

        def last_ones_wait(kind: str, number: int) -> float:
            del kind, number
            return WAIT_S if reads >= halfway else 0.0

        policy = ScriptedEngine(Script(writer=brief, sequences=0))
        prm = ScriptedEngine(Script(judge=judge, delay=last_ones_wait))
        return match(policy, prm), lambda: reads >= halfway and not policy.in_flight

    pairs, waits = zip(*(held() for _ in range(searches)), strict=True)
    tracemalloc.start()
    before = traced()
    tasks = [asyncio.create_task(search(pair, number, strategy, n)) for number, pair in enumerate(pairs)]
    async with asyncio.timeout(SETTLE_S):
        while not all(task.done() or is_waiting() for task, is_waiting in zip(tasks, waits, strict=True)):
            await asyncio.sleep(POLL_S)
    after = traced()
    live = gc.get_objects()
    written, gathered = text_bytes(live)
    candidates = sum(len(one.candidates) for one in live if isinstance(one, Tree))
    tracemalloc.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return Memory((written + gathered) / searches, (after - before - gathered) / searches, candidates / searches)


def traced() -> int:
    """Bytes that are held now, garbage left out, and were asked for outside the scripted engines."""
    gc.collect()
    own = [tracemalloc.Filter(False, str(module.__file__)) for module in (scripted, scripted_vocabulary, story)]
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(own).traces)


def text_bytes(live: Sequence[object]) -> tuple[int, int]:
    """Bytes of all text that searches hold now: what the scripted engines have written (`traced` leaves it out), and
    what searches have gathered from it, each piece counted once. ``live``: every object there is."""
    candidates = [c for one in live if isinstance(one, Tree) for c in one.candidates.values()]
    chains = [one for one in live if isinstance(one, Chain) and len(one.candidates) > 1]
    pieces = [c.piece for c in candidates]
    gathered = [text for piece in pieces for text in (piece.text, *piece.fields.values())]
    return sizes([c.written for c in candidates]), sizes([*gathered, *(chain.prefix for chain in chains)])


def sizes(pieces: Sequence[object]) -> int:
    """Bytes of objects, the same one counted once."""
    return sum(sys.getsizeof(piece) for piece in {id(piece): piece for piece in pieces}.values())


async def measure(levels: Sequence[int], strategy: str, n: int, rounds: int) -> Facts:
    """All levels, in turns."""
    found: dict[int, Level] = {}
    with tqdm(total=rounds * len(levels) * SEARCHES_A_LEVEL, desc="searches", unit="search") as bar:
        for _ in range(rounds):
            for concurrency in levels:
                level = await measure_level(concurrency, SEARCHES_A_LEVEL, strategy, n, bar)
                known = found.get(concurrency)
                found[concurrency] = level if known is None or level.seconds < known.seconds else known
    results = [found[concurrency].facts() for concurrency in levels]
    first, last, memory = results[0], results[-1], await memory_per_search(LIVE, strategy, n)
    return {
        "results": results,
        "steps_per_s": last["steps_per_s"],
        "cost_ratio": first["steps_per_s"] / last["steps_per_s"],
        "bytes_per_search": memory.other,
        "text_bytes_per_search": memory.text,
        "candidates_held_per_search": memory.candidates,
        "strategy": strategy,
        "n": n,
        "rounds": rounds,
    }
