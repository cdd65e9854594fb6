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
from contextlib import nullcontext
from dataclasses import dataclass

from cos.benchmarks.caches import forget
from cos.benchmarks.limit import at_once
from cos.benchmarks.setting import Setting
from cos.benchmarks.side_by_side import Way, compare
from cos.benchmarks.wrapped import Wrapped, WrappedSession
from cos.checkpoints import LedgerProblem
from cos.engines.ports import Engine
from cos.evaluation.accuracy import ask, root_seed
from cos.evaluation.in_process import Running
from cos.evaluation.provenance import Facts
from cos.prm.pair import Pair
from cos.search.ports import Draw, Drawn, Policy, PolicySession, Reading, Scorer, ScorerSession
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.types import Chain, Question


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


def behind_barrier(running: Running) -> Pair:
    """The pair behind barriers."""
    pair, prm = running.pair, running.engines.prm
    scorer = None if pair.scorer is None or prm is None else BarrierScorer(pair.scorer, prm)
    return Pair(BarrierPolicy(pair.policy), scorer, pair.grammar)


async def measure(
    running: Running, problems: Sequence[LedgerProblem], setting: Setting, levels: Sequence[int], rounds: int, seed: int
) -> Facts:
    """All levels of concurrency, both ways in turns. Errors: InputError for too few problems."""
    ours = InProcess(running, running.pair, setting, seed)
    barrier = InProcess(running, behind_barrier(running), setting, seed, asyncio.Lock())
    results = await compare(ours, barrier, problems, levels, rounds, seed, "barrier")
    keys = ("speedup", "speedup_ci_low", "speedup_ci_high", "p95_ratio", "same_answers")
    return {"results": results, **{key: results[-1][key] for key in keys}, "rounds": rounds, **setting.facts()}


@dataclass(frozen=True, slots=True)
class InProcess:
    """Searches on engines of this process, from empty caches."""

    running: Running
    pair: Pair
    setting: Setting
    seed: int
    lock: asyncio.Lock | None = None
    """With it one search has the engines and the others wait."""

    def spec(self, problem: LedgerProblem) -> SearchSpec:
        """How a problem is searched."""
        return self.setting.spec(root_seed(self.seed, problem.id))

    async def __call__(self, problems: Sequence[LedgerProblem], concurrency: int, way: Way) -> None:
        """A round of `cos.benchmarks.side_by_side`."""
        await forget(self.running)

        async def search(problem: LedgerProblem) -> None:
            started = time.perf_counter()
            async with self.lock or nullcontext():
                found = await solve(
                    ask(problem), self.spec(problem), self.pair.policy, self.pair.scorer, self.pair.grammar
                )
            way.add(problem, found.chain.answer, time.perf_counter() - started, found.usage.tokens_generated)

        await at_once([lambda problem=problem: search(problem) for problem in problems], concurrency)
