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
from dataclasses import dataclass, replace

from cos.benchmarks.caches import caches_of, empty_caches
from cos.benchmarks.limit import at_once
from cos.benchmarks.setting import Setting
from cos.benchmarks.side_by_side import Tally, compare
from cos.benchmarks.wrapped import Wrapped, WrappedSession
from cos.checkpoints import LedgerProblem
from cos.engines.ports import HasCaches
from cos.evaluation.accuracy import ask, root_seed
from cos.evaluation.in_process import OpenModels
from cos.evaluation.provenance import Facts
from cos.search.models import Models
from cos.search.ports import Draw, Drawn, Policy, PolicySession, Reading, Scorer, ScorerSession
from cos.search.prompt import Prompt
from cos.search.run import solve
from cos.search.scale import Scale
from cos.search.spec import SearchSpec
from cos.search.types import Chain, Prefix, Question


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

    async def open(self, prompt: Prompt) -> "BarrierDraws":
        return BarrierDraws(await self._policy.open(prompt))


class BarrierDraws(WrappedSession):
    """One prompt of a `BarrierPolicy`."""

    def __init__(self, session: PolicySession) -> None:
        super().__init__(session)
        self._session = session
        self._level = Level()

    async def draw(self, prefix: Prefix, draw: Draw) -> Drawn:
        async with self._level:
            return await self._session.draw(prefix, draw)


class BarrierScorer:
    """A PRM that reads a level at once, and from the start. Satisfies `cos.search.ports.Scorer`."""

    def __init__(self, scorer: Scorer, caches: HasCaches) -> None:
        self._scorer = scorer
        self._caches = caches

    @property
    def scale(self) -> Scale:
        return self._scorer.scale

    async def open(self, question: Question) -> "BarrierReads":
        return BarrierReads(await self._scorer.open(question), self._caches)


class BarrierReads:
    """One question of a `BarrierScorer`."""

    def __init__(self, session: ScorerSession, caches: HasCaches) -> None:
        self._session = session
        self._level = Level(lambda: caches.forget(prefixes_only=True))

    async def score(self, chain: Chain) -> Reading:
        async with self._level:
            return await self._session.score(chain)


def behind_barrier(opened: OpenModels) -> Models:
    """The same models behind barriers. Errors: InputError for a PRM whose caches cannot be emptied."""
    models, prm = opened.models, opened.reader
    scorer = None if models.scorer is None or prm is None else BarrierScorer(models.scorer, caches_of(prm))
    return replace(models, policy=BarrierPolicy(models.policy), scorer=scorer)


async def measure(
    opened: OpenModels,
    problems: Sequence[LedgerProblem],
    setting: Setting,
    levels: Sequence[int],
    rounds: int,
    seed: int,
) -> Facts:
    """All levels of concurrency, both ways in turns. Errors: InputError for too few problems."""
    ours = InProcess(opened, opened.models, setting, seed)
    barrier = InProcess(opened, behind_barrier(opened), setting, seed, asyncio.Lock())
    results = await compare(ours, barrier, problems, levels, rounds, seed, "barrier")
    keys = ("speedup", "speedup_ci_low", "speedup_ci_high", "p95_ratio", "same_answers")
    return {
        "results": results,
        **{key: results[-1][key] for key in keys},
        "rounds": rounds,
        **setting.under(opened.models).facts(),
    }


@dataclass(frozen=True, slots=True)
class InProcess:
    """Searches on engines of this process, from empty caches."""

    opened: OpenModels
    models: Models
    setting: Setting
    seed: int
    lock: asyncio.Lock | None = None
    """With it one search has the engines and the others wait."""

    def spec(self, problem: LedgerProblem) -> SearchSpec:
        """How a problem is searched."""
        return self.setting.spec(root_seed(self.seed, problem.id))

    async def __call__(self, problems: Sequence[LedgerProblem], concurrency: int, tally: Tally) -> None:
        """A round of `cos.benchmarks.side_by_side`."""
        await empty_caches(self.opened)

        async def search(problem: LedgerProblem) -> None:
            started = time.perf_counter()
            async with self.lock or nullcontext():
                found = await solve(ask(problem), self.spec(problem), self.models)
            tally.add(problem, found.chain.answer, time.perf_counter() - started, found.usage.tokens_generated)

        await at_once([lambda problem=problem: search(problem) for problem in problems], concurrency)
