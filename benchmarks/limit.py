"""How near searches come to what their engines can do.

The floor: exactly the requests that the searches made (the same prefixes, seeds, token counts and reads) are made again
without what searches wait for: nothing depends on anything, and as many run at once as the searches may have live
(n x concurrency). Efficiency is the floor's time by the searches' time, round by round, with empty caches before each.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tqdm import tqdm

from cos.benchmarks.caches import empty_caches
from cos.benchmarks.setting import Setting
from cos.benchmarks.wrapped import WrappedRuntime, WrappedSession
from cos.checkpoints import LedgerProblem
from cos.engines.launch import Engines
from cos.engines.ports import Runtime, Session
from cos.evaluation.accuracy import ask, root_seed
from cos.evaluation.in_process import OpenModels
from cos.evaluation.provenance import Facts
from cos.evaluation.statistics import bootstrap_mean
from cos.prm.matching import match
from cos.search.errors import InputError
from cos.search.models import Models
from cos.search.ports import Draw, Drawn, HeadRead, LabelRead
from cos.search.prompt import Prompt
from cos.search.run import solve
from cos.search.types import Prefix

Reply = TypeVar("Reply")
Job = Callable[[], Awaitable[Any]]
Request = Callable[[Session], Awaitable[object]]
"""One request, made again on a session of the same prompt."""
ROUND = 8
"""Searches of each of a level's workers in a round: while the last ones end, fewer run than the level says."""


@dataclass(slots=True)
class Log:
    """What was asked of one engine, in the order in which it was asked."""

    prompts: list[Prompt] = field(default_factory=list[Prompt])
    """Those that were opened."""
    requests: list[tuple[int, Request]] = field(default_factory=list[tuple[int, Request]])
    """Each with the index of its prompt."""


class Recorded(WrappedRuntime):
    """A runtime whose requests are logged. Satisfies `cos.search.ports.Policy`, `cos.search.ports.ReportsLoad` and
    `cos.prm.ports.Reader`."""

    def __init__(self, runtime: Runtime, log: Log) -> None:
        super().__init__(runtime)
        self._log = log

    async def open(self, prompt: Prompt) -> "RecordedSession":
        self._log.prompts.append(prompt)
        number = len(self._log.prompts) - 1
        return RecordedSession(await self._runtime.open(prompt), number, self._log)


class RecordedSession(WrappedSession):
    """One prompt on a recorded runtime."""

    def __init__(self, session: Session, number: int, log: Log) -> None:
        super().__init__(session)
        self._session = session
        self._number = number
        self._log = log

    async def draw(self, prefix: Prefix, draw: Draw) -> Drawn:
        return await self._make(lambda session: session.draw(prefix, draw))

    async def read_labels(self, prefix: Prefix, labels: tuple[int, ...], priority: int) -> LabelRead:
        return await self._make(lambda session: session.read_labels(prefix, labels, priority))

    async def read_head(self, prefix: Prefix, priority: int) -> HeadRead:
        return await self._make(lambda session: session.read_head(prefix, priority))

    async def _make(self, request: Callable[[Session], Awaitable[Reply]]) -> Reply:
        self._log.requests.append((self._number, request))
        return await request(self._session)


@dataclass(frozen=True, slots=True)
class Round:
    """One round at one level: the searches, and the same requests without them."""

    search_s: float
    floor_s: float
    requests: int
    tokens: int


async def measure(
    opened: OpenModels,
    problems: Sequence[LedgerProblem],
    setting: Setting,
    levels: Sequence[int],
    rounds: int,
    seed: int,
) -> Facts:
    """All levels in turns, every round over problems of its own. Errors: InputError for too few problems."""
    wanted = rounds * sum(ROUND * level for level in levels)
    if wanted + max(levels) > len(problems):
        raise InputError(
            f"{rounds} rounds take {wanted + max(levels)} problems and there are {len(problems)}", "rounds"
        )
    waiting = iter(problems)
    # The first requests of an engine compile what the others use.
    await one_round(opened, [next(waiting) for _ in range(max(levels))], setting, max(levels), seed)
    found: dict[int, list[Round]] = {level: [] for level in levels}
    with tqdm(total=rounds * len(levels), desc="rounds", unit="round") as bar:
        for _ in range(rounds):
            for level in levels:
                chosen = [next(waiting) for _ in range(ROUND * level)]
                found[level].append(await one_round(opened, chosen, setting, level, seed))
                bar.update()
    results = [level_facts(level, found[level], seed) for level in levels]
    return {
        "results": results,
        "efficiency": results[-1]["efficiency"],
        "rounds": rounds,
        "seed": seed,
        **setting.under(opened.models).facts(),
    }


def level_facts(level: int, rounds: Sequence[Round], seed: int) -> Facts:
    """One level over all its rounds."""
    shares = [one.floor_s / one.search_s for one in rounds]
    interval = bootstrap_mean(shares, seed)
    return {
        "concurrency": level,
        "efficiency": sum(shares) / len(shares),
        "ci_low": interval.low,
        "ci_high": interval.high,
        "search_s": sum(one.search_s for one in rounds),
        "floor_s": sum(one.floor_s for one in rounds),
        "requests": sum(one.requests for one in rounds),
        "tokens": sum(one.tokens for one in rounds),
    }


async def one_round(
    opened: OpenModels, problems: Sequence[LedgerProblem], setting: Setting, concurrency: int, seed: int
) -> Round:
    """Searches, then makes the same requests again."""
    # A policy that is its own judge stands in both places.
    engines, draws, reads = Engines(opened.engines.policy, opened.reader), Log(), Log()
    await empty_caches(opened)
    models = recorded(engines, draws, reads, opened.models.grammar.name, opened.prm.prm_format)
    search_s, tokens = await searches(models, problems, setting, concurrency, seed)
    await empty_caches(opened)
    floor_s = await floor(engines, draws, reads, (setting.n or 1) * concurrency, concurrency)
    return Round(search_s, floor_s, len(draws.requests) + len(reads.requests), tokens)


def recorded(engines: Engines, draws: Log, reads: Log, grammar: str, prm_format: str) -> Models:
    """The models of a search, logging what is asked of either engine."""
    prm = None if engines.prm is None else Recorded(engines.prm, reads)
    return match(Recorded(engines.policy, draws), prm, grammar=grammar, prm_format=prm_format)


async def searches(
    models: Models, problems: Sequence[LedgerProblem], setting: Setting, concurrency: int, seed: int
) -> tuple[float, int]:
    """Seconds and generated tokens of so many searches, so many at once."""
    tokens = 0

    async def search(problem: LedgerProblem) -> None:
        nonlocal tokens
        spec = setting.spec(root_seed(seed, problem.id), speculate=False)
        result = await solve(ask(problem), spec, models)
        tokens += result.usage.tokens_generated

    started = time.perf_counter()
    await at_once([lambda problem=problem: search(problem) for problem in problems], concurrency)
    return time.perf_counter() - started, tokens


async def floor(engines: Engines, draws: Log, reads: Log, live: int, opening: int) -> float:
    """Seconds that the engines take for the same requests when nothing waits for anything but a free place."""

    async def replay(runtime: Runtime, log: Log) -> None:
        sessions: list[asyncio.Task[Session]] = []
        gate = asyncio.Semaphore(opening)

        async def open_one(prompt: Prompt) -> Session:
            async with gate:
                return await runtime.open(prompt)

        sessions += [asyncio.create_task(open_one(prompt)) for prompt in log.prompts]

        async def make(number: int, request: Request) -> None:
            await request(await sessions[number])

        await at_once([lambda one=one: make(*one) for one in log.requests], live)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        group.create_task(replay(engines.policy, draws))
        if engines.prm is not None:
            group.create_task(replay(engines.prm, reads))
    return time.perf_counter() - started


async def at_once(jobs: Sequence[Job], many: int) -> None:
    """Runs all jobs, in their order, so many at a time."""
    waiting = iter(jobs)

    async def worker() -> None:
        for job in waiting:
            await job()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(many, len(jobs))):
            group.create_task(worker())
