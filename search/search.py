"""The Search handle, which strategies are written against, and `run`, which drives one search and tells what happens.

A strategy never touches an engine, a clock or a budget. It expands chains, looks at scored candidates, keeps some, and
returns the winner. At any limit the best chain so far is the answer, and the result says which limit it was.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from cos.search.budget import Budget
from cos.search.errors import BudgetExhausted, EngineDead, EngineError, InputError, SearchFailed
from cos.search.events import Answered, Event, Opened, Scored, Selected, Written
from cos.search.grammar import CosGrammar
from cos.search.ports import Draw, Drawn, Policy, PolicySession, Reading, Scorer, ScorerSession
from cos.search.select import finite, likelihood_score, rank, rank_level
from cos.search.spec import SearchSpec
from cos.search.tasks import dismiss, together
from cos.search.types import Candidate, Chain, FinishReason, Path, Question, Result, Timings, Usage

ATTEMPTS = 2
"""Tries for one request: an engine error before any token was delivered is retried once."""


def seed_of(root: int, path: Path) -> int:
    """The sampling seed of a place in the tree: siblings differ, and no order of events can change it."""
    text = f"{root}:{','.join(map(str, path))}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") >> 1


class Search:
    """One search under way."""

    def __init__(
        self,
        spec: SearchSpec,
        grammar: CosGrammar,
        policy: Policy,
        session: PolicySession,
        scorer: ScorerSession | None,
        emit: Callable[[Event], None],
    ) -> None:
        self.root = Chain()
        self.tree: dict[Path, Candidate] = {}
        self.usage = Usage()
        self.warnings: list[str] = []
        self.first_candidate_at: float | None = None
        self.starved: set[Path] = set()
        """Candidates that were cut because the token budget had no more for them."""
        self._spec = spec
        self._grammar = grammar
        self._policy = policy
        self._session = session
        self._scorer = scorer
        self._emit = emit
        self._budget = Budget(spec.limits)
        self._live = asyncio.Semaphore(spec.limits.live_sequences)
        self._children: dict[Path, int] = {}
        self._judged: set[Path] = set()

    async def expand(self, wanted: Sequence[tuple[Chain, int]]) -> list[Chain]:
        """Draws and scores new children: ``n`` of each chain. All at once; each is scored the moment it ends.

        Errors: EngineError when no child could be had; BudgetExhausted, which a strategy lets pass.
        """
        places = [(chain, self._place(chain)) for chain, n in wanted for _ in range(n)]
        grants = [self._reserve(chain, len(places) - index) for index, (chain, _) in enumerate(places)]

        async def child(chain: Chain, path: Path, grant: int) -> Chain | None:
            longer = await self._write(chain, path, grant, self._spec.sampling.temperature)
            return None if longer is None else await self._judge(longer)

        found = await together(child(chain, path, grant) for (chain, path), grant in zip(places, grants, strict=True))
        return _alive(found)

    async def sample(self, n: int, *, scored: bool, temperature: float | None = None) -> list[Chain]:
        """Draws n whole chains from the root, side by side, in path order. With ``scored`` each step is read while
        the chain grows on: growing never waits for a score. Errors: as `expand`."""
        heat = self._spec.sampling.temperature if temperature is None else temperature

        async def grow(path: Path) -> Chain | None:
            chain: Chain | None = self.root
            readings: list[asyncio.Task[Chain]] = []
            async with asyncio.TaskGroup() as group:
                while chain is not None and not chain.is_last:
                    chain = await self._write(chain, path, self._reserve(chain, n), heat)
                    if chain is not None:
                        path = (*chain.path, 0)
                        if scored:
                            readings.append(group.create_task(self._judge(chain)))
            return chain and chain.with_scores({c.path: self.tree[c.path].score for c in chain.candidates})

        return _alive(await together([grow(self._place(self.root)) for _ in range(n)]))

    def rank(self, chains: Sequence[Chain]) -> list[Chain]:
        """Best first, by chain value; answered chains before others."""
        return rank(chains, self._spec.ruler)

    def rank_level(self, chains: Sequence[Chain]) -> list[Chain]:
        """Best first, by value so far, steps and answers alike."""
        return rank_level(chains, self._spec.ruler.value)

    def rank_newest(self, chains: Sequence[Chain]) -> list[Chain]:
        """Best first, by the newest candidate's score alone, steps and answers alike."""
        return rank_level(chains, self._spec.ruler.newest)

    def select(self, kept: Sequence[Chain], considered: Sequence[Chain]) -> None:
        """Tells which of the considered chains go on; changes nothing."""
        going_on = {chain.path for chain in kept}
        pruned = tuple(chain.path for chain in considered if chain.path not in going_on)
        self._emit(Selected(tuple(chain.path for chain in kept), pruned))

    async def explain(self, chain: Chain) -> Chain:
        """The chain with scores for candidates that were never read, as far as the budget allows."""
        if self._scorer is None or self._spec.ruler.kind != "prm":
            return chain
        prefixes = [
            Chain(chain.candidates[: i + 1])
            for i, c in enumerate(chain.candidates)
            if c.path not in self._judged and c.end != "broken"
        ]
        try:
            await together(self._judge(prefix) for prefix in prefixes)
        except (BudgetExhausted, EngineError) as error:
            self.warnings.append(f"the winning chain could not be scored: {error}")
        return chain.with_scores({path: candidate.score for path, candidate in self.tree.items()})

    def best_so_far(self) -> Chain | None:
        """The best of all chains in the tree; None before the first candidate."""
        parents = {path[:-1] for path in self.tree}
        leaves = [path for path in self.tree if path not in parents]
        chains = [Chain(tuple(self.tree[leaf[: i + 1]] for i in range(len(leaf)))) for leaf in leaves]
        return self.rank(chains)[0] if chains else None

    def _place(self, chain: Chain) -> Path:
        index = self._children.get(chain.path, 0)
        self._children[chain.path] = index + 1
        return (*chain.path, index)

    def _room(self, chain: Chain) -> int:
        return self._policy.context_tokens - self._session.prompt_tokens - len(chain.token_ids)

    def _longest(self, chain: Chain) -> int:
        return min(self._spec.sampling.step_tokens, self._room(chain))

    def _reserve(self, chain: Chain, sharers: int) -> int:
        return self._budget.reserve_tokens(self._longest(chain), sharers)

    async def _write(self, chain: Chain, path: Path, grant: int, temperature: float) -> Chain | None:
        """The chain with one candidate more; None when the engine failed twice."""
        sampling = self._spec.sampling
        draw = Draw(
            max_tokens=grant,
            stop_ids=self._grammar.stop_ids,
            seed=seed_of(sampling.seed, path),
            temperature=temperature,
            top_p=sampling.top_p,
            logprobs=self._spec.ruler.kind == "likelihood",
            priority=-len(path),
        )
        drawn = await self._draw(chain, draw)
        self._budget.settle_tokens(grant, len(drawn.token_ids) if drawn else 0)
        if drawn is None:
            return None
        if drawn.finish == "length" and grant < self._longest(chain):
            self.starved.add(path)
        candidate = self._candidate(chain, path, drawn)
        self.tree[path] = candidate
        self.first_candidate_at = self.first_candidate_at or time.perf_counter()
        self._emit(Written(candidate))
        return chain.then(candidate)

    async def _draw(self, chain: Chain, draw: Draw) -> Drawn | None:
        continuation = chain.token_ids
        for _ in range(ATTEMPTS):
            async with self._live:
                try:
                    drawn = await self._session.draw(continuation, draw)
                except EngineDead:
                    raise
                except EngineError:
                    self.usage = replace(self.usage, requests_failed=self.usage.requests_failed + 1)
                    continue
                except asyncio.CancelledError:
                    self.usage = replace(self.usage, requests_aborted=self.usage.requests_aborted + 1)
                    raise
            self.usage = replace(
                self.usage,
                candidates=self.usage.candidates + 1,
                tokens_generated=self.usage.tokens_generated + len(drawn.token_ids),
                policy_prompt_tokens=self.usage.policy_prompt_tokens + drawn.prompt_tokens,
                policy_cached_tokens=self.usage.policy_cached_tokens + drawn.cached_tokens,
            )
            return drawn
        return None

    def _candidate(self, chain: Chain, path: Path, drawn: Drawn) -> Candidate:
        text = self._policy.vocabulary.decode(drawn.token_ids)
        segment = self._grammar.read(drawn.token_ids, text, cut=drawn.finish == "length")
        end = segment.end
        too_deep = len(path) > self._spec.sampling.max_steps
        if end == "step" and (too_deep or self._room(chain) - len(drawn.token_ids) < 1):
            end = "max_steps"
        candidate = Candidate(
            path=path,
            token_ids=drawn.token_ids,
            text=text,
            end=end,
            step=segment.step,
            answer=segment.answer,
            logprob=drawn.logprob,
        )
        return (
            replace(candidate, score=likelihood_score(candidate))
            if self._spec.ruler.kind == "likelihood"
            else candidate
        )

    async def _judge(self, chain: Chain) -> Chain:
        """The chain with its newest candidate scored. What the grammar cannot read is never shown to the PRM."""
        newest = chain.candidates[-1]
        if self._spec.ruler.kind == "prm":
            if self._scorer is None or newest.end in ("broken", "truncated"):
                return chain
            reading = await self._read(chain, self._scorer)
            self._judged.add(newest.path)
            newest = replace(newest, score=finite(reading.score) if reading else None)
            self.tree[newest.path] = newest
        if newest.score is None:
            self.usage = replace(self.usage, unscored=self.usage.unscored + 1)
        self._emit(Scored(newest.path, newest.score))
        return Chain((*chain.candidates[:-1], newest))

    async def _read(self, chain: Chain, scorer: ScorerSession) -> Reading | None:
        for _ in range(ATTEMPTS):
            self._budget.reserve_read()
            try:
                reading = await scorer.score(chain)
            except EngineDead:
                raise
            except EngineError:
                self.usage = replace(self.usage, requests_failed=self.usage.requests_failed + 1)
            else:
                self.usage = replace(
                    self.usage,
                    prm_reads=self.usage.prm_reads + 1,
                    prm_prompt_tokens=self.usage.prm_prompt_tokens + reading.prompt_tokens,
                    prm_cached_tokens=self.usage.prm_cached_tokens + reading.cached_tokens,
                )
                return reading
        return None


def _alive(found: Sequence[Chain | None]) -> list[Chain]:
    chains = [chain for chain in found if chain is not None]
    if not chains:
        raise EngineError("every candidate of a level failed in the policy engine")
    return chains


async def run(
    question: Question, spec: SearchSpec, policy: Policy, scorer: Scorer | None, grammar: CosGrammar
) -> AsyncGenerator[Event, None]:
    """Searches, telling what happens; the last event is `Answered`. Close the iterator to cancel the search.

    Errors: InputError (before any engine work), EngineError, SearchFailed when a limit came before the first candidate.
    """
    events: asyncio.Queue[Event | None] = asyncio.Queue()

    async def work() -> None:
        try:
            events.put_nowait(Answered(await _search(question, spec, policy, scorer, grammar, events.put_nowait)))
        finally:
            events.put_nowait(None)

    task = asyncio.create_task(work())
    try:
        while (event := await events.get()) is not None:
            yield event
        await task
    finally:
        await dismiss(task)


async def solve(
    question: Question, spec: SearchSpec, policy: Policy, scorer: Scorer | None, grammar: CosGrammar
) -> Result:
    """The result of a search. Errors: as `run`."""
    async with aclosing(run(question, spec, policy, scorer, grammar)) as events:
        async for event in events:
            if isinstance(event, Answered):
                return event.result
    raise AssertionError("a search ends with Answered or an error")


async def _search(
    question: Question,
    spec: SearchSpec,
    policy: Policy,
    scorer: Scorer | None,
    grammar: CosGrammar,
    emit: Callable[[Event], None],
) -> Result:
    started = opened = time.perf_counter()
    search: Search | None = None
    limit: FinishReason | None = None
    chain: Chain | None = None
    deadline = asyncio.timeout(spec.limits.seconds)
    try:
        async with deadline:
            session, judge = await _open(question, spec, policy, scorer)
            opened = time.perf_counter()
            emit(Opened(spec.strategy.name, session.prompt_tokens))
            search = Search(spec, grammar, policy, session, judge, emit)
            # Type checkers that follow the links under src/ see this module, and its Search, twice.
            chain = await spec.strategy.run(search, spec.params)  # pyright: ignore[reportArgumentType]
            if spec.explain:
                chain = await search.explain(chain)
    except BudgetExhausted as spent:
        limit = spent.kind
    except TimeoutError:
        if not deadline.expired():
            raise
        limit = "seconds"
    winner = chain or (search.best_so_far() if search else None)
    if search is None or winner is None:
        raise SearchFailed(f"the limit on {limit} was reached before the first candidate; raise it")
    first = search.first_candidate_at
    return Result(
        chain=winner,
        value=spec.ruler.value(winner),
        finish_reason=limit if limit and chain is None else _reason(search, winner.candidates[-1]),
        usage=replace(search.usage, tokens_kept=len(winner.token_ids)),
        timings=Timings(opened - started, first and first - started, time.perf_counter() - started),
        tree=tuple(search.tree[path] for path in sorted(search.tree)),
        warnings=tuple(search.warnings),
    )


def _reason(search: Search, last: Candidate) -> FinishReason:
    if last.path in search.starved:
        return "tokens"
    return "max_steps" if last.end == "step" else last.end


async def _open(
    question: Question, spec: SearchSpec, policy: Policy, scorer: Scorer | None
) -> tuple[PolicySession, ScorerSession | None]:
    name = spec.strategy.name
    if scorer is None and spec.ruler.kind == "prm" and spec.strategy.needs_scores:
        message = f"strategy {name!r} ranks by PRM scores and there is no PRM; ask for score 'likelihood'"
        raise InputError(message, "score")
    if scorer is None or spec.ruler.kind != "prm":
        return await policy.open(question), None
    judge = asyncio.create_task(_open_scorer(scorer, question))
    try:
        return await policy.open(question), await judge
    finally:
        await dismiss(judge)


async def _open_scorer(scorer: Scorer, question: Question) -> ScorerSession:
    return await scorer.open(question)
