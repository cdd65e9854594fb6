"""What is measured for the report, problem by problem, each in a journal: a run goes on where an earlier one stopped,
and a figure is never taken from other checkpoints, seeds or settings than it is shown for."""

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from msgspec import structs

from cos.benchmarks.pool import Pool, draw_pool, score_tree
from cos.benchmarks.setting import Setting
from cos.checkpoints import LedgerProblem, resolve
from cos.evaluation.accuracy import Record, ask, root_seed, search_one
from cos.evaluation.cutting import cut
from cos.evaluation.in_process import open_models
from cos.evaluation.journal import Journal
from cos.evaluation.progress import side_by_side
from cos.evaluation.provenance import commit, revision
from cos.prm.choice import NO_PRM
from cos.search.errors import InputError
from cos.search.models import Models
from cos.search.ports import Drawn
from cos.search.types import Candidate, Chain, Piece

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
class ModelNames:
    """A policy and a PRM (``none``: no PRM), as a user names them."""

    policy: str
    prm: str = NO_PRM

    @property
    def identities(self) -> dict[str, str]:
        return {"policy": identity("policy", self.policy), "prm": identity("prm", self.prm)}


class LazyModels:
    """Models that the first measurement starts that has something left to do."""

    def __init__(self, names: ModelNames, stack: AsyncExitStack) -> None:
        self.names = names
        self._stack = stack
        self._started: Models | None = None

    async def start(self) -> Models:
        """The models, started once. Errors: InputError for models that do not start."""
        if self._started is None:
            opened = await self._stack.enter_async_context(open_models(self.names.policy, self.names.prm))
            self._started = opened.models
        return self._started


async def _complete(
    bench: Bench,
    journal: Journal | None,
    label: str,
    models: LazyModels,
    width: int,
    measure: Callable[[Models, LedgerProblem], Awaitable[Value]],
) -> list[Value] | None:
    """The value of every problem, measured where the journal has none; None when that would have to be but must not."""
    if journal is None:
        return None
    with journal:
        waiting = [problem for problem in bench.problems if problem.id not in journal.done]
        if waiting and bench.stored_only:
            return None
        if waiting:
            started, now = await models.start(), commit()

            async def one(problem: LedgerProblem) -> None:
                journal.add(problem.id, {"commit": now, "found": await measure(started, problem)})

            await side_by_side(one, waiting, bench.side_by_side(width), label)
        values = [journal.done[problem.id] for problem in bench.problems]
    bench.commits.update(value["commit"] for value in values)
    return [value["found"] for value in values]


async def pools(bench: Bench, models: LazyModels, size: int, *, scored: bool) -> list[Pool] | None:
    """``size`` chains a problem with the policy's likelihoods, and with PRM scores where ``scored``.

    Errors: InputError, EngineDead.
    """
    setting = bench.setting("best_of_n", size)
    settings = {**models.names.identities, "n": size, "temperature": bench.temperature, "top_p": bench.top_p}
    if not scored:
        del settings["prm"]

    async def one(started: Models, problem: LedgerProblem) -> Value:
        used = started if scored else replace(started, scorer=None)
        return pool_value(await draw_pool(used, problem, setting, bench.seed))

    journal = bench.journal("pool" if scored else "samples", settings)
    found = await _complete(bench, journal, f"{size} chains each", models, size, one)
    return None if found is None else [pool_of(p, v) for p, v in zip(bench.problems, found, strict=True)]


def pool_value(pool: Pool) -> Value:
    """A pool as JSON. Errors: InputError for a policy that runs elsewhere and gives its text alone."""
    chains = [[[_token_ids(c), c.end, c.answer, c.logprob, c.score] for c in chain.candidates] for chain in pool.chains]
    return {
        "tokens": pool.tokens,
        "prm_reads": pool.prm_reads,
        "starts": [chain.path[0] for chain in pool.chains],
        "chains": chains,
    }


def _token_ids(candidate: Candidate) -> list[int]:
    if not isinstance(candidate.written, tuple):
        raise InputError("chains are stored as token ids; give a --policy that runs in this process", "policy")
    return [*cast("tuple[int, ...]", candidate.written)]


def pool_of(problem: LedgerProblem, value: Value) -> Pool:
    """A pool from JSON. The text of its candidates is left out, but for answers."""
    chains: list[Chain] = []
    for start, candidates in zip(value["starts"], value["chains"], strict=True):
        chains.append(
            Chain(
                tuple(
                    Candidate(
                        path=(start, *[0] * depth),
                        written=tuple(ids),
                        tokens=len(ids),
                        piece=Piece("step", "") if answer is None else Piece("answer", answer),
                        end=end,
                        logprob=logprob,
                        score=score,
                    )
                    for depth, (ids, end, answer, logprob, score) in enumerate(candidates)
                )
            )
        )
    return Pool(problem, tuple(chains), value["tokens"], value["prm_reads"])


async def searches(bench: Bench, models: LazyModels, strategy: str, n: int | None) -> list[Record] | None:
    """One search a problem. Errors: InputError, EngineDead."""
    setting = bench.setting(strategy, n)
    settings = {**models.names.identities, "strategy": setting.strategy, "n": setting.n}
    if strategy == "greedy":
        del settings["prm"]
    else:
        settings |= {"temperature": bench.temperature, "top_p": bench.top_p}

    async def one(started: Models, problem: LedgerProblem) -> Value:
        found = await search_one(started, problem, setting.spec(root_seed(bench.seed, problem.id)))
        return {
            "answer": found.answer,
            "is_right": found.is_right,
            "steps": found.steps,
            "tokens": found.tokens,
            "prm_reads": found.prm_reads,
        }

    label = strategy if setting.n is None else f"{strategy}@{setting.n}"
    found = await _complete(bench, bench.journal("search", settings), label, models, setting.n or 1, one)
    if found is None:
        return None
    return [Record(problem_id=p.id, kind=p.kind, **v) for p, v in zip(bench.problems, found, strict=True)]


async def rescored(bench: Bench, models: LazyModels, drawn: Sequence[Pool], size: int) -> list[Pool] | None:
    """The first ``size`` chains of pools that were drawn from the same policy, scored by another PRM.

    Errors: InputError, EngineDead.
    """
    by_id = {pool.problem.id: pool for pool in drawn}

    async def one(started: Models, problem: LedgerProblem) -> Value:
        assert started.scorer is not None, "a PRM was named"
        chains = [_unscored(started, chain) for chain in by_id[problem.id].block(0, size)]
        tree = [candidate for chain in chains for candidate in chain.candidates]
        scores = await score_tree(started.scorer, ask(problem), tree)
        for candidate in tree:
            candidate.score = scores.get(candidate.path)
        return pool_value(Pool(problem, tuple(chains), 0, len(scores)))

    settings = {**models.names.identities, "n": size, "temperature": bench.temperature, "top_p": bench.top_p}
    found = await _complete(bench, bench.journal("rescored", settings), f"{size} chains each, read", models, size, one)
    return None if found is None else [pool_of(p, v) for p, v in zip(bench.problems, found, strict=True)]


def _unscored(models: Models, chain: Chain) -> Chain:
    """A stored chain, read again by the grammar, without scores."""
    vocabulary, grammar = models.policy.vocabulary, models.grammar
    candidates: list[Candidate] = []
    for candidate in chain.candidates:
        ids = cast("tuple[int, ...]", candidate.written)
        drawn = Drawn(
            written=ids,
            text=vocabulary.decode(ids),
            tokens=len(ids),
            finish="length" if candidate.end == "truncated" else "stop",
            stop=None,
            logprob=candidate.logprob,
            prompt_tokens=0,
            cached_tokens=0,
        )
        # A search ends a candidate at its first stop: nothing but the end of it can be one.
        piece = next((grammar.read(part) for part in cut(drawn, grammar.stops, vocabulary)), candidate.piece)
        candidates.append(structs.replace(candidate, piece=piece, score=None))
    return Chain(tuple(candidates))
