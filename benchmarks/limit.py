"""How far searches are from what their engines allow.

The floor: exactly the requests that the searches made (the same prefixes, seeds, token counts and reads) are made again
without what searches wait for: nothing depends on anything, and as many run at once as the searches may have live
(n x concurrency). Efficiency is the floor's time by the searches' time, round by round, with empty caches before each.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from cos.benchmarks.caches import forget
from cos.benchmarks.setting import Setting
from cos.benchmarks.wrapped import Wrapped, WrappedSession
from cos.checkpoints import LedgerProblem
from cos.engines.launch import Engines
from cos.engines.ports import Engine, Session
from cos.evaluation.accuracy import ask, root_seed
from cos.evaluation.in_process import Running
from cos.evaluation.provenance import Facts
from cos.evaluation.statistics import bootstrap_mean
from cos.prm.pair import Pair, pair
from cos.search.errors import InputError
from cos.search.ports import Draw, Drawn, LabelRead
from cos.search.run import solve
from cos.search.types import Question

Job = Callable[[], Awaitable[Any]]
ROUND = 8
"""Searches of each of a level's workers in a round: while the last ones end, fewer run than the level says."""


@dataclass(slots=True)
class Log:
    """What was asked of one engine, question by question, in the order in which it was asked."""

    questions: list[Question] = field(default_factory=list[Question])
    draws: list[tuple[int, tuple[int, ...], Draw]] = field(default_factory=list[tuple[int, tuple[int, ...], Draw]])
    reads: list[tuple[int, tuple[int, ...], tuple[int, int], int]] = field(
        default_factory=list[tuple[int, tuple[int, ...], tuple[int, int], int]]
    )


class Recorded(Wrapped):
    """An engine whose requests are logged. Satisfies `cos.search.ports.Policy` and `cos.prm.ports.Reader`."""

    def __init__(self, engine: Engine, log: Log) -> None:
        super().__init__(engine)
        self._engine = engine
        self._log = log

    async def open(self, question: Question) -> "RecordedSession":
        self._log.questions.append(question)
        number = len(self._log.questions) - 1
        return RecordedSession(await self._engine.open(question), number, self._log)


class RecordedSession(WrappedSession):
    """One question on a recorded engine."""

    def __init__(self, session: Session, number: int, log: Log) -> None:
        super().__init__(session)
        self._session = session
        self._number = number
        self._log = log

    async def draw(self, continuation: Sequence[int], draw: Draw) -> Drawn:
        self._log.draws.append((self._number, tuple(continuation), draw))
        return await self._session.draw(continuation, draw)

    async def read_labels(self, continuation: Sequence[int], labels: tuple[int, int], priority: int) -> LabelRead:
        self._log.reads.append((self._number, tuple(continuation), labels, priority))
        return await self._session.read_labels(continuation, labels, priority)


@dataclass(frozen=True, slots=True)
class Round:
    """One round at one level: the searches, and the same requests without them."""

    search_s: float
    floor_s: float
    requests: int
    tokens: int


async def measure(
    running: Running, problems: Sequence[LedgerProblem], setting: Setting, levels: Sequence[int], rounds: int, seed: int
) -> Facts:
    """All levels in turns, every round over problems of its own. Errors: InputError for too few problems."""
    wanted = rounds * sum(ROUND * level for level in levels)
    if wanted + max(levels) > len(problems):
        raise InputError(
            f"{rounds} rounds take {wanted + max(levels)} problems and there are {len(problems)}", "rounds"
        )
    waiting = iter(problems)
    # The first requests of an engine compile what the others use.
    await one_round(running, [next(waiting) for _ in range(max(levels))], setting, max(levels), seed)
    found: dict[int, list[Round]] = {level: [] for level in levels}
    with tqdm(total=rounds * len(levels), desc="rounds", unit="round") as bar:
        for _ in range(rounds):
            for level in levels:
                chosen = [next(waiting) for _ in range(ROUND * level)]
                found[level].append(await one_round(running, chosen, setting, level, seed))
                bar.update()
    results = [level_facts(level, found[level], seed) for level in levels]
    return {
        "results": results,
        "efficiency": results[-1]["efficiency"],
        "rounds": rounds,
        "seed": seed,
        **setting.facts(),
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
    running: Running, problems: Sequence[LedgerProblem], setting: Setting, concurrency: int, seed: int
) -> Round:
    """Searches, then makes the same requests again."""
    engines, draws, reads = running.engines, Log(), Log()
    await forget(running)
    search_s, tokens = await searches(recorded(engines, draws, reads), problems, setting, concurrency, seed)
    await forget(running)
    floor_s = await floor(engines, draws, reads, (setting.n or 1) * concurrency, concurrency)
    return Round(search_s, floor_s, len(draws.draws) + len(reads.reads), tokens)


def recorded(engines: Engines, draws: Log, reads: Log) -> Pair:
    """The pair, logging."""
    prm = None if engines.prm is None else Recorded(engines.prm, reads)
    return pair(Recorded(engines.policy, draws), prm)


async def searches(
    pairing: Pair, problems: Sequence[LedgerProblem], setting: Setting, concurrency: int, seed: int
) -> tuple[float, int]:
    """Seconds and generated tokens of so many searches, so many at once."""
    tokens = 0

    async def search(problem: LedgerProblem) -> None:
        nonlocal tokens
        spec = setting.spec(root_seed(seed, problem.id), speculate=False)
        result = await solve(ask(problem), spec, pairing.policy, pairing.scorer, pairing.grammar)
        tokens += result.usage.tokens_generated

    started = time.perf_counter()
    await at_once([lambda problem=problem: search(problem) for problem in problems], concurrency)
    return time.perf_counter() - started, tokens


async def floor(engines: Engines, draws: Log, reads: Log, live: int, opening: int) -> float:
    """Seconds that the engines take for the same requests when nothing waits for anything but a free place."""

    async def replay(engine: Engine, log: Log) -> None:
        sessions: list[asyncio.Task[Session]] = []
        gate = asyncio.Semaphore(opening)

        async def open_one(question: Question) -> Session:
            async with gate:
                return await engine.open(question)

        sessions += [asyncio.create_task(open_one(question)) for question in log.questions]

        async def draw(number: int, continuation: tuple[int, ...], how: Draw) -> None:
            await (await sessions[number]).draw(continuation, how)

        async def read(number: int, continuation: tuple[int, ...], labels: tuple[int, int], priority: int) -> None:
            await (await sessions[number]).read_labels(continuation, labels, priority)

        await at_once([lambda one=one: draw(*one) for one in log.draws], live)
        await at_once([lambda one=one: read(*one) for one in log.reads], live)

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
