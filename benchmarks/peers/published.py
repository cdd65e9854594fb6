"""Algorithms of search-and-learn and ThinkBooster, run again on our engines as their code schedules them.

Both score whole chains, and only once all that were drawn together have ended; a PRM read finds nothing of a chain's
earlier reads in a cache (search-and-learn's PRMs run in transformers; ThinkBooster's is a pooling model, whose hidden
states no prefix cache holds). A chain's score is its last one (``agg_strategy: last``, src/sal/config.py), so that one
read a chain is all that is needed. Beams search one question at a time: search-and-learn asserts it
(src/sal/config.py, ``search_batch_size``), and a request to ThinkBooster holds the event loop
(service_app/api/routes/chat.py). The same holds for ThinkBooster's offline best-of-N; search-and-learn draws the chains
of a batch of questions at once.

Kinder to them than they are: the policy keeps its prefix cache, a picture is encoded once, chains that say the same are
scored once, and what chains of one level begin with alike is computed once.
"""

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from cos.benchmarks.barrier import InProcess, behind_barrier
from cos.benchmarks.caches import empty_caches
from cos.benchmarks.setting import Setting
from cos.benchmarks.side_by_side import Round, Tally
from cos.checkpoints import LedgerProblem
from cos.evaluation.accuracy import ask
from cos.evaluation.in_process import OpenModels
from cos.evaluation.sampling import ChainSampler, ChainSampling, Continuation
from cos.search.errors import InputError
from cos.search.grammar import token_ids
from cos.search.models import Models
from cos.search.ports import ScorerSession
from cos.search.search import Search
from cos.search.spec import SearchSpec
from cos.search.strategies.base import Strategy
from cos.search.strategies.beam import BeamParams, spread
from cos.search.types import Candidate, Chain

BATCH = 25
"""Questions that search-and-learn's best-of-N draws chains for at once (``search_batch_size``, src/sal/config.py)."""


class SearchAndLearnBeam(Strategy):
    """src/sal/search/beam_search.py: all chains that answer are kept for the end; of the others the best n / 4 go on,
    repeated until there are n again."""

    name = "search_and_learn_beam"
    aliases = ()
    params = BeamParams
    needs_scores = True

    async def run(self, search: Search, params: BeamParams) -> Chain:
        done, wanted = list[Chain](), [(search.root, params.n)]
        while wanted:
            level = await search.expand(wanted)
            done += [chain for chain in level if chain.is_last]
            going_on = search.rank_level([chain for chain in level if not chain.is_last])[: params.width]
            wanted = spread(going_on, params.n) if going_on else []
        return search.rank(done)[0]


class ThinkBoosterBeam(Strategy):
    """llm_tts/strategies/strategy_beam_search.py: n / beam_width candidates of each chain; the best beam_width of all
    go on, and those among them that answer are kept for the end."""

    name = "thinkbooster_beam"
    aliases = ()
    params = BeamParams
    needs_scores = True

    async def run(self, search: Search, params: BeamParams) -> Chain:
        done, wanted = list[Chain](), [(search.root, params.n)]
        while wanted:
            kept = search.rank_level(await search.expand(wanted))[: params.width]
            done += [chain for chain in kept if chain.is_last]
            wanted = [(chain, params.n // params.width) for chain in kept if not chain.is_last]
        return search.rank(done)[0]


@dataclass(frozen=True, slots=True)
class PublishedBeam(InProcess):
    """One of the two beams behind a barrier, one search at a time."""

    strategy: Strategy = field(kw_only=True)

    def spec(self, problem: LedgerProblem) -> SearchSpec:
        spec = super(PublishedBeam, self).spec(problem)
        spec.strategy = self.strategy
        return spec


@dataclass(frozen=True, slots=True)
class WholeChains:
    """Best-of-N: the chains of ``batch`` questions are drawn, each in one request, and then all are scored."""

    opened: OpenModels
    setting: Setting
    seed: int
    batch: int

    async def __call__(self, problems: Sequence[LedgerProblem], concurrency: int, tally: Tally) -> None:
        """A round of `cos.benchmarks.side_by_side`: ``concurrency`` questions come at once."""
        await empty_caches(self.opened)
        for together in parts(problems, concurrency):
            started = time.perf_counter()
            for batch in parts(together, self.batch):
                drawn = await self.drawn(batch)
                best = await self.best(batch, drawn)
                took_s = time.perf_counter() - started
                for problem, chains, winner in zip(batch, drawn, best, strict=True):
                    tally.add(
                        problem, winner.answer and winner.answer.text, took_s, sum(chain.tokens for chain in chains)
                    )

    async def drawn(self, problems: Sequence[LedgerProblem]) -> list[list[Continuation]]:
        """n chains of each question."""
        sampling = ChainSampling(temperature=self.setting.temperature, top_p=self.setting.top_p, seed=self.seed)
        n = self.setting.n or 1
        sampler = ChainSampler(self.opened.models, sampling, n * len(problems))

        async def draw(problem: LedgerProblem) -> list[Continuation]:
            return await sampler.write(await sampler.open(ask(problem)), problem.id, n)

        return list(await asyncio.gather(*map(draw, problems)))

    async def best(
        self, problems: Sequence[LedgerProblem], drawn: Sequence[Sequence[Continuation]]
    ) -> list[Continuation]:
        """The chain with the best last score of each question."""
        models = self.opened.models
        scorer = models.scorer
        if scorer is None:
            raise InputError("what is compared needs a PRM; give --prm", "prm")

        async def choose(problem: LedgerProblem, chains: Sequence[Continuation]) -> Continuation:
            session = await scorer.open(ask(problem))
            ranks = await asyncio.gather(*(rank_of(session, models, chain) for chain in chains))
            return chains[max(range(len(chains)), key=ranks.__getitem__)]

        return list(await asyncio.gather(*map(choose, problems, drawn)))


async def rank_of(session: ScorerSession, models: Models, chain: Continuation) -> tuple[bool, float]:
    """Whether a chain is answered, and what the PRM says of its last step or answer: the greater the better. A chain
    without a score comes last."""
    pieces = [*chain.steps, *([] if chain.answer is None else [chain.answer])]
    candidates: list[Candidate] = []
    for index, piece in enumerate(pieces):
        ids = token_ids(models.policy.vocabulary, models.grammar.spans(piece, first=index == 0))
        end = "answer" if piece.kind == "answer" else "step"
        candidates.append(Candidate(path=(0,) * (index + 1), written=ids, tokens=len(ids), piece=piece, end=end))
    score = (await session.score(Chain(tuple(candidates)))).score if candidates else None
    return chain.answer is not None, -math.inf if score is None else score


def parts(problems: Sequence[LedgerProblem], size: int) -> Iterator[Sequence[LedgerProblem]]:
    """The problems in groups."""
    for start in range(0, len(problems), size):
        yield problems[start : start + size]


def contenders(opened: OpenModels, setting: Setting, seed: int) -> dict[tuple[str, str], Round]:
    """What is run again, by project and strategy."""
    last = replace(setting, aggregation="last")
    beam = replace(last, strategy="beam").fitted()
    alone = behind_barrier(opened)
    return {
        ("search-and-learn", "best_of_n"): WholeChains(opened, last, seed, BATCH),
        ("search-and-learn", "beam"): PublishedBeam(
            opened, alone, beam, seed, asyncio.Lock(), strategy=SearchAndLearnBeam()
        ),
        ("ThinkBooster", "best_of_n"): WholeChains(opened, last, seed, 1),
        ("ThinkBooster", "beam"): PublishedBeam(opened, alone, beam, seed, asyncio.Lock(), strategy=ThinkBoosterBeam()),
    }
