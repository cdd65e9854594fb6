"""What is measured for the report, problem by problem, each in a journal: a run goes on where an earlier one stopped,
and a figure is never taken from other checkpoints, seeds or settings than it is shown for."""

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from msgspec import structs

from cos.benchmarks.pool import Pool, draw_pool, score_tree
from cos.benchmarks.setting import Setting
from cos.checkpoints import LedgerProblem, resolve
from cos.evaluation.accuracy import Record, ask, root_seed, search_one
from cos.evaluation.in_process import NO_PRM, running
from cos.evaluation.journal import Journal
from cos.evaluation.progress import side_by_side
from cos.evaluation.provenance import commit, revision
from cos.prm.pair import Pair
from cos.search.types import Candidate, Chain

Value = dict[str, Any]

FULL_WIDTH = 16
"""Candidates from which on a problem counts as wide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all measurements share."""

    work: Path
    problems: Sequence[LedgerProblem]
    seed: int
    concurrency: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    stored_only: bool = False
    """Take what earlier runs have measured, and start nothing."""
    commits: set[str] = field(default_factory=set[str])
    """The commits under which all that was taken so far was measured."""

    def side_by_side(self, n: int) -> int:
        """Problems at once when each draws ``n`` candidates: narrow searches need more of them to fill the engines."""
        return self.concurrency * max(1, FULL_WIDTH // n)

    def setting(self, strategy: str, n: int | None) -> Setting:
        """A search with this bench's sampling."""
        return Setting(strategy=strategy, n=n, temperature=self.temperature, top_p=self.top_p).fitted()

    def journal(self, what: str, settings: Mapping[str, Any]) -> Journal | None:
        """The journal of one measurement; another one for other settings. None when there is none and must not be.

        Errors: InputError for a damaged file.
        """
        whole = {"what": what, "seed": self.seed, **settings}
        digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:8]
        path = self.work / f"{what}-{digest}.jsonl"
        return None if self.stored_only and not path.exists() else Journal(path, whole)


def identity(role: str, model: str) -> str:
    """A model as journals know it: by its weights where it has any."""
    return revision(resolve(role, model)) or model


@dataclass(frozen=True, slots=True)
class Models:
    """A policy and a PRM (``none``: no PRM), started when first needed."""

    policy: str
    prm: str = NO_PRM

    @property
    def identities(self) -> dict[str, str]:
        return {"policy": identity("policy", self.policy), "prm": identity("prm", self.prm)}


class Engines:
    """The engines of one pair of models, started by the first measurement that has something left to do."""

    def __init__(self, models: Models, stack: AsyncExitStack) -> None:
        self.models = models
        self._stack = stack
        self._pair: Pair | None = None

    async def pair(self) -> Pair:
        """Errors: InputError for models that do not start."""
        if self._pair is None:
            started = await self._stack.enter_async_context(running(self.models.policy, self.models.prm))
            self._pair = started.pair
        return self._pair


async def _complete(
    bench: Bench,
    journal: Journal | None,
    label: str,
    engines: Engines,
    width: int,
    measure: Callable[[Pair, LedgerProblem], Awaitable[Value]],
) -> list[Value] | None:
    """The value of every problem, measured where the journal has none; None when that would have to be but must not."""
    if journal is None:
        return None
    with journal:
        waiting = [problem for problem in bench.problems if problem.id not in journal.done]
        if waiting and bench.stored_only:
            return None
        if waiting:
            pair, now = await engines.pair(), commit()

            async def one(problem: LedgerProblem) -> None:
                journal.add(problem.id, {"commit": now, "found": await measure(pair, problem)})

            await side_by_side(one, waiting, bench.side_by_side(width), label)
        values = [journal.done[problem.id] for problem in bench.problems]
    bench.commits.update(value["commit"] for value in values)
    return [value["found"] for value in values]


async def pools(bench: Bench, engines: Engines, size: int, *, scored: bool) -> list[Pool] | None:
    """``size`` chains a problem with the policy's likelihoods, and with PRM scores where ``scored``.

    Errors: InputError, EngineDead.
    """
    setting = bench.setting("best_of_n", size)
    models = engines.models.identities
    settings = {**models, "n": size, "temperature": bench.temperature, "top_p": bench.top_p}
    if not scored:
        del settings["prm"]

    async def one(pair: Pair, problem: LedgerProblem) -> Value:
        used = pair if scored else replace(pair, scorer=None)
        return pool_value(await draw_pool(used, problem, setting, bench.seed))

    journal = bench.journal("pool" if scored else "samples", settings)
    found = await _complete(bench, journal, f"{size} chains each", engines, size, one)
    return None if found is None else [pool_of(p, v) for p, v in zip(bench.problems, found, strict=True)]


def pool_value(pool: Pool) -> Value:
    """A pool as JSON."""
    chains = [
        [[list(c.token_ids), c.end, c.answer, c.logprob, c.score] for c in chain.candidates] for chain in pool.chains
    ]
    return {
        "tokens": pool.tokens,
        "prm_reads": pool.prm_reads,
        "starts": [chain.path[0] for chain in pool.chains],
        "chains": chains,
    }


def pool_of(problem: LedgerProblem, value: Value) -> Pool:
    """A pool from JSON; the text of its candidates is left out."""
    chains: list[Chain] = []
    for start, candidates in zip(value["starts"], value["chains"], strict=True):
        chains.append(
            Chain(
                tuple(
                    Candidate(
                        path=(start, *[0] * depth),
                        token_ids=tuple(ids),
                        text="",
                        end=end,
                        answer=answer,
                        logprob=logprob,
                        score=score,
                    )
                    for depth, (ids, end, answer, logprob, score) in enumerate(candidates)
                )
            )
        )
    return Pool(problem, tuple(chains), value["tokens"], value["prm_reads"])


async def searches(bench: Bench, engines: Engines, strategy: str, n: int | None) -> list[Record] | None:
    """One search a problem. Errors: InputError, EngineDead."""
    setting = bench.setting(strategy, n)
    settings = {**engines.models.identities, "strategy": setting.strategy, "n": setting.n}
    if strategy == "greedy":
        del settings["prm"]
    else:
        settings |= {"temperature": bench.temperature, "top_p": bench.top_p}

    async def one(pair: Pair, problem: LedgerProblem) -> Value:
        found = await search_one(pair, problem, setting.spec(root_seed(bench.seed, problem.id)))
        return {
            "answer": found.answer,
            "is_right": found.is_right,
            "steps": found.steps,
            "tokens": found.tokens,
            "prm_reads": found.prm_reads,
        }

    label = strategy if setting.n is None else f"{strategy}@{setting.n}"
    found = await _complete(bench, bench.journal("search", settings), label, engines, setting.n or 1, one)
    if found is None:
        return None
    return [Record(problem_id=p.id, kind=p.kind, **v) for p, v in zip(bench.problems, found, strict=True)]


async def rescored(bench: Bench, engines: Engines, drawn: Sequence[Pool], size: int) -> list[Pool] | None:
    """The first ``size`` chains of pools that were drawn from the same policy, scored by another PRM.

    Errors: InputError, EngineDead.
    """
    by_id = {pool.problem.id: pool for pool in drawn}

    async def one(pair: Pair, problem: LedgerProblem) -> Value:
        assert pair.scorer is not None, "a PRM was named"
        chains = [_read(pair, chain) for chain in by_id[problem.id].block(0, size)]
        tree = [candidate for chain in chains for candidate in chain.candidates]
        scores = await score_tree(pair.scorer, ask(problem), tree)
        return pool_value(Pool(problem, tuple(chain.with_scores(scores) for chain in chains), 0, len(scores)))

    settings = {**engines.models.identities, "n": size, "temperature": bench.temperature, "top_p": bench.top_p}
    found = await _complete(bench, bench.journal("rescored", settings), f"{size} chains each, read", engines, size, one)
    return None if found is None else [pool_of(p, v) for p, v in zip(bench.problems, found, strict=True)]


def _read(pair: Pair, chain: Chain) -> Chain:
    """A stored chain with its text and fields, and without scores."""
    candidates: list[Candidate] = []
    for candidate in chain.candidates:
        text = pair.policy.vocabulary.decode(candidate.token_ids)
        step = pair.grammar.read(candidate.token_ids, text, cut=candidate.end == "truncated").step
        candidates.append(structs.replace(candidate, text=text, step=step, score=None))
    return Chain(tuple(candidates))
