"""Search as it is done elsewhere, beside ours, on the same engines: one search at a time, level by level.

The barrier: a search has the engines for itself (a lock); no candidate of a level is handed on before all have ended; a
level's chains are then read together, with nothing of an earlier level's reads in the PRM's cache. That is kinder than
what peers do: the policy keeps its prefix cache, the picture is encoded once, and what chains of one level begin with
alike is computed once.

Both ways search the same problems with the same seeds, in turns, from empty caches; without HTTP.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from cos.benchmarks.limit import at_once
from cos.benchmarks.setting import Setting
from cos.benchmarks.speculation import forget
from cos.benchmarks.wrapped import Wrapped, WrappedSession
from cos.checkpoints import LedgerProblem
from cos.engines.ports import Engine
from cos.prm.pair import Pair
from cos.search.answers import equal
from cos.search.errors import InputError
from cos.search.ports import Draw, Drawn, Policy, PolicySession, Reading, Scorer, ScorerSession
from cos.search.run import solve
from cos.search.types import Chain, Question
from cos.training.accuracy import ask, is_right, root_seed
from cos.training.engines import Running
from cos.training.provenance import Facts
from cos.training.statistics import bootstrap_mean

SEARCHES_A_WORKER = 4
"""Searches of each worker in a round."""


class Level:
    """Holds back what has ended until nothing is under way."""

    def __init__(self, begin: Callable[[], Awaitable[None]] | None = None) -> None:
        """``begin``: runs before the first request of every level."""
        self._begin = begin
        self._running = 0
        self._over = asyncio.Event()
        self._begun: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._running += 1
        if self._begin is not None:
            if self._begun is None:
                self._begun = asyncio.ensure_future(self._begin())
            await self._begun

    async def __aexit__(self, *_: object) -> None:
        over, self._running = self._over, self._running - 1
        if self._running:
            await over.wait()
        else:
            over.set()
            self._over, self._begun = asyncio.Event(), None


class BarrierPolicy(Wrapped):
    """A policy whose draws are handed on level by level. Satisfies `cos.search.ports.Policy`."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self._policy = policy

    @property
    def is_saturated(self) -> bool:
        return True

    async def open(self, question: Question) -> "BarrierDraws":
        return BarrierDraws(await self._policy.open(question))


class BarrierDraws(WrappedSession):
    """One question of a `BarrierPolicy`."""

    def __init__(self, session: PolicySession) -> None:
        super().__init__(session)
        self._session = session
        self._level = Level()

    async def draw(self, continuation: Sequence[int], draw: Draw) -> Drawn:
        async with self._level:
            return await self._session.draw(continuation, draw)


class BarrierScorer:
    """A PRM that reads a level at once, and from the start. Satisfies `cos.search.ports.Scorer`."""

    def __init__(self, scorer: Scorer, engine: Engine) -> None:
        self._scorer = scorer
        self._engine = engine

    async def open(self, question: Question) -> "BarrierReads":
        return BarrierReads(await self._scorer.open(question), self._engine)


class BarrierReads:
    """One question of a `BarrierScorer`."""

    def __init__(self, session: ScorerSession, engine: Engine) -> None:
        self._session = session
        self._level = Level(lambda: engine.forget(prefixes_only=True))

    async def score(self, chain: Chain) -> Reading:
        async with self._level:
            return await self._session.score(chain)


@dataclass(slots=True)
class Way:
    """One way to search, and what was seen of it."""

    latencies_s: list[float] = field(default_factory=list[float])
    rates: list[float] = field(default_factory=list[float])
    """Searches a second, round by round."""
    answers: dict[str, str | None] = field(default_factory=dict[str, str | None])
    right: int = 0

    def facts(self) -> Facts:
        """As numbers."""
        import numpy as np

        median, late = np.percentile(self.latencies_s, (50, 95))
        return {
            "searches_per_s": sum(self.rates) / len(self.rates),
            "latency_p50_s": float(median),
            "latency_p95_s": float(late),
            "searches": len(self.latencies_s),
            "accuracy": self.right / len(self.latencies_s),
        }


def behind_barrier(running: Running) -> Pair:
    """The pair behind barriers."""
    pair, prm = running.pair, running.engines.prm
    scorer = None if pair.scorer is None or prm is None else BarrierScorer(pair.scorer, prm)
    return Pair(BarrierPolicy(pair.policy), scorer, pair.grammar)


async def measure(
    running: Running, problems: Sequence[LedgerProblem], setting: Setting, levels: Sequence[int], rounds: int, seed: int
) -> Facts:
    """All levels of concurrency, both ways in turns. Errors: InputError for too few problems."""
    wanted = rounds * sum(SEARCHES_A_WORKER * level for level in levels)
    if wanted + max(levels) > len(problems):
        raise InputError(f"{rounds} rounds take {wanted + max(levels)} problems, there are {len(problems)}", "rounds")
    waiting = iter(problems)
    warm_up = [next(waiting) for _ in range(max(levels))]
    for _ in range(2):
        await one_round(running, running.pair, warm_up, setting, max(levels), seed, Way())
    ways = {level: (Way(), Way()) for level in levels}
    with tqdm(total=2 * rounds * len(levels), desc="rounds", unit="round") as bar:
        for number in range(rounds):
            for level in levels:
                chosen = [next(waiting) for _ in range(SEARCHES_A_WORKER * level)]
                for is_ours in (True, False) if number % 2 else (False, True):
                    await one_way(running, chosen, setting, level, seed, ways[level], is_ours=is_ours)
                    bar.update()
    results = [level_facts(level, *ways[level], seed) for level in levels]
    keys = ("speedup", "speedup_ci_low", "speedup_ci_high", "p95_ratio", "same_answers")
    return {"results": results, **{key: results[-1][key] for key in keys}, "rounds": rounds, **setting.facts()}


async def one_way(
    running: Running,
    problems: Sequence[LedgerProblem],
    setting: Setting,
    level: int,
    seed: int,
    ways: tuple[Way, Way],
    *,
    is_ours: bool,
) -> None:
    """One round of one of both ways."""
    if is_ours:
        await one_round(running, running.pair, problems, setting, level, seed, ways[0])
    else:
        await one_round(running, behind_barrier(running), problems, setting, level, seed, ways[1], asyncio.Lock())


async def one_round(
    running: Running,
    pair: Pair,
    problems: Sequence[LedgerProblem],
    setting: Setting,
    level: int,
    seed: int,
    way: Way,
    lock: asyncio.Lock | None = None,
) -> None:
    """So many searches at once; with a lock one of them has the engines and the others wait."""
    await forget(running)

    async def search(problem: LedgerProblem) -> None:
        started = time.perf_counter()
        async with lock or asyncio.Lock():
            spec = setting.spec(root_seed(seed, problem.id))
            result = await solve(ask(problem), spec, pair.policy, pair.scorer, pair.grammar)
        way.latencies_s.append(time.perf_counter() - started)
        way.answers[problem.id] = result.chain.answer
        way.right += is_right(result.chain.answer, problem)

    started = time.perf_counter()
    await at_once([lambda problem=problem: search(problem) for problem in problems], level)
    way.rates.append(len(problems) / (time.perf_counter() - started))


def level_facts(level: int, ours: Way, barrier: Way, seed: int) -> Facts:
    """Both ways at one level of concurrency, and how they compare."""
    shares = [one / other for one, other in zip(ours.rates, barrier.rates, strict=True)]
    interval = bootstrap_mean(shares, seed)
    told, rival = ours.facts(), barrier.facts()
    alike = sum(equal(answer or "", barrier.answers[name] or "") for name, answer in ours.answers.items())
    return {
        "concurrency": level,
        "speedup": sum(shares) / len(shares),
        "speedup_ci_low": interval.low,
        "speedup_ci_high": interval.high,
        "p95_ratio": told["latency_p95_s"] / rival["latency_p95_s"],
        "same_answers": alike / len(ours.answers),
        "ours": told,
        "barrier": rival,
    }
