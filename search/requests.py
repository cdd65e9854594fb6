"""What a search asks of its engines. Every draw and every read is paid for, tried twice, and counted here.

A chain that says what another said already is not read again: both have the score of one read. What is likely to be
wanted next may be begun ahead (`Requests.begin`): it is the very request that would be made later, as a candidate's
seed follows from its place, so that a search comes to the same tree with it and without.
"""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from cos.search.account import account
from cos.search.budget import Budget
from cos.search.errors import BudgetExhausted, BudgetKind, EngineDead, EngineError
from cos.search.events import Event, Scored, Written
from cos.search.grammar import CosGrammar
from cos.search.hygiene import end_of
from cos.search.ports import Draw, Drawn, Policy, PolicySession, Reading, ScorerSession
from cos.search.rations import Rations
from cos.search.select import finite, likelihood_score
from cos.search.spec import SearchSpec
from cos.search.stopwatch import Stopwatch
from cos.search.tasks import Gate, forget_frames
from cos.search.trust import Trust
from cos.search.types import UNREADABLE, Candidate, Chain, Path, Usage

ATTEMPTS = 2
"""Tries for one request: an engine error before any token was delivered is retried once."""
AHEAD_PRIORITY = 1_000
"""What is begun ahead runs behind everything that is wanted now."""


def seed_of(root: int, path: Path) -> int:
    """The sampling seed of a place in the tree: siblings differ, and no order of events can change it."""
    text = f"{root}:{','.join(map(str, path))}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") >> 1


class Place(Struct, frozen=True, gc=False):
    """Where a candidate is to stand, and how it is to be drawn."""

    chain: Chain
    """What it continues."""
    path: Path
    temperature: float


class Begun(Struct, frozen=True):
    """A candidate begun ahead: its draw, and the tokens it may write."""

    task: asyncio.Task[Drawn | None]
    grant: int


class Requests:
    """The engines of one search, its tree, and what it has spent."""

    def __init__(
        self,
        spec: SearchSpec,
        grammar: CosGrammar,
        policy: Policy,
        session: PolicySession,
        scorer: ScorerSession | None,
        emit: Callable[[Event], None],
        watch: Stopwatch,
    ) -> None:
        self.tree: dict[Path, Candidate] = {}
        self.spent: Counter[str] = Counter()
        """By the names of `cos.search.types.Usage`."""
        self.first_candidate_at: float | None = None
        self.starved: set[Path] = set()
        """Candidates that were cut because the token budget had no more for them."""
        self.limit: BudgetKind | None = None
        """The limit that kept the search from what its strategy wanted."""
        self.judged: set[Path] = set()
        """Candidates that were shown to the PRM."""
        self.trust = Trust()
        self._spec = spec
        self._grammar = grammar
        self._policy = policy
        self._session = session
        self._sessions = [session]
        self._scorer = scorer
        self._emit = emit
        self._watch = watch
        self.for_guesses = spec.limits.for_guesses(spec.sampling.step_tokens)
        """Tokens set aside for what is begun ahead in vain; None without a limit."""
        self.rations = Rations(spec.sampling, policy.context_tokens - session.prompt_tokens)
        self._live = Gate(spec.limits.live_sequences)
        self._ahead: dict[Path, Begun] = {}
        self._dropped: list[Begun] = []
        self._numbers: dict[Path, int] = {(): 0}
        """The same for candidates whose chains say the same."""
        self._said: dict[tuple[int, tuple[int, ...]], int] = {}
        self._readings: dict[int, asyncio.Future[Reading | None]] = {}

    @property
    def has_scorer(self) -> bool:
        """Whether there is a PRM to read for it."""
        return self._scorer is not None

    @property
    def may_begin(self) -> bool:
        """Whether anything may be begun ahead now: not where it would take the place of what is wanted."""
        return self._spec.speculate and not self._live.is_full and not self._policy.is_saturated

    def begin(self, place: Place) -> None:
        """Begins a candidate that will probably be wanted, unless the tokens that are set aside for guesses might not
        suffice for it."""
        if place.path in self._ahead or place.path in self.tree:
            return
        grant = self.rations.longest(place.chain)
        if self.for_guesses is None or self._at_risk() + grant <= self.for_guesses:
            task = asyncio.create_task(self._guess(place, grant))
            self._ahead[place.path] = Begun(task, grant)

    def drop(self, paths: Iterable[Path]) -> None:
        """Aborts what was begun ahead at these places and after them."""
        for path in paths:
            for stale in [begun for begun in self._ahead if begun[: len(path)] == path]:
                self._drop(self._ahead.pop(stale))

    async def settle(self) -> None:
        """Drops all that was begun ahead and not taken up, and returns once none of it runs any more; what it wrote
        counts as aborted."""
        self.drop([()])
        if self._dropped:
            await asyncio.wait([begun.task for begun in self._dropped])
        self._count_dropped()

    async def write(self, place: Place, grant: int, budget: Budget) -> Chain | None:
        """The chain with one candidate more, of ``grant`` tokens at most, which ``budget`` has reserved for it; None
        when the engine failed twice."""
        begun = self._ahead.pop(place.path, None)
        if begun is not None and begun.grant != grant:
            # It might have written what is not granted any more, and the tree must not tell.
            self._drop(begun)
            begun = None
        drawn = await (begun.task if begun else self._draw(place, grant))
        budget.settle_tokens(grant, len(drawn.token_ids) if drawn else 0)
        if drawn is None:
            return None
        self.spent["candidates"] += 1
        self.spent["candidates_begun_ahead"] += begun is not None
        self.spent["tokens_generated"] += len(drawn.token_ids)
        if drawn.finish == "length" and grant < self.rations.longest(place.chain):
            self.starved.add(place.path)
        candidate = self._candidate(place, drawn)
        self.tree[place.path] = candidate
        said = (self._numbers[place.path[:-1]], drawn.token_ids)
        self._numbers[place.path] = self._said.setdefault(said, len(self._said) + 1)
        self.first_candidate_at = self.first_candidate_at or time.perf_counter()
        self._emit(Written(candidate))
        return place.chain.then(candidate)

    async def judge(self, chain: Chain, budget: Budget, *, decides: bool = True) -> Chain:
        """The chain with its newest candidate scored. What the grammar cannot read is never shown to the PRM. The read
        is paid for by then; ``budget`` pays for a second try. ``decides``: whether the search goes by the score."""
        newest = chain.candidates[-1]
        if self._spec.ruler.kind == "prm":
            if self._scorer is None or newest.end in UNREADABLE:
                return chain
            reading = await self._reading(chain, self._scorer, budget)
            self.judged.add(newest.path)
            newest = replace(newest, score=finite(reading.score) if reading else None)
            if decides:
                self.trust.count(newest.score)
            self.tree[newest.path] = newest
        if newest.score is None:
            self.spent["unscored"] += 1
        self._emit(Scored(newest.path, newest.score))
        return chain.judged(newest)

    def usage(self, winner: Chain) -> Usage:
        """What was spent by now, if ``winner`` is the answer's chain."""
        aborted = self._aborted()
        written = {"tokens_aborted": aborted, "tokens_generated": self.spent["tokens_generated"] + aborted}
        return account({**self.spent, **written}, self.tree, self._numbers, winner)

    async def ask(self, session: PolicySession, seed: int, max_tokens: int, budget: Budget) -> str:
        """What the policy says to a question of its own, as plain text; empty when the engine failed twice.

        Errors: BudgetExhausted, EngineDead.
        """
        self._sessions.append(session)
        room = self._policy.context_tokens - session.prompt_tokens
        grant = budget.reserve_tokens(min(max_tokens, room))
        draw = Draw(max_tokens=grant, stop_ids=(), seed=seed, temperature=self._spec.sampling.temperature)
        drawn = await self._request(session, (), draw, None)
        budget.settle_tokens(grant, len(drawn.token_ids) if drawn else 0)
        if drawn is None:
            return ""
        self.spent["tokens_generated"] += len(drawn.token_ids)
        self.spent["tokens_asked"] += len(drawn.token_ids)
        return self._policy.vocabulary.decode(drawn.token_ids)

    def meet(self, kind: BudgetKind) -> None:
        """Notes that a limit kept the search from something. Where several did, tokens are told: which came first
        depends on what ended first."""
        if kind == "tokens" or self.limit is None:
            self.limit = kind

    def _drop(self, begun: Begun) -> None:
        begun.task.cancel()
        self._dropped.append(begun)
        self.spent["candidates_begun_in_vain"] += 1

    def _count_dropped(self) -> None:
        """Counts what was written in vain by draws that are over, and forgets them."""
        for begun in self._dropped:
            task = begun.task
            if task.done() and not task.cancelled() and task.exception() is None and (drawn := task.result()):
                self.spent["tokens_aborted"] += len(drawn.token_ids)
                self.spent["candidates_aborted"] += 1
        self._dropped = [begun for begun in self._dropped if not begun.task.done()]

    def _aborted(self) -> int:
        return self.spent["tokens_aborted"] + sum(session.tokens_aborted for session in self._sessions)

    def _at_risk(self) -> int:
        """Tokens that were written in vain, or may yet be by what was begun ahead."""
        self._count_dropped()
        return self._aborted() + sum(begun.grant for begun in (*self._ahead.values(), *self._dropped))

    async def _guess(self, place: Place, grant: int) -> Drawn | None:
        try:
            return await self._draw(place, grant, ahead=True)
        except BaseException as error:
            forget_frames(error)
            raise

    def _draw(self, place: Place, grant: int, *, ahead: bool = False) -> Coroutine[Any, Any, Drawn | None]:
        sampling = self._spec.sampling
        draw = Draw(
            max_tokens=grant,
            stop_ids=self._grammar.stop_ids,
            seed=seed_of(sampling.seed, place.path),
            temperature=place.temperature,
            top_p=sampling.top_p,
            logprobs=self._spec.ruler.kind == "likelihood",
            priority=AHEAD_PRIORITY if ahead else -len(place.path),
        )
        return self._request(self._session, place.chain.token_ids, draw, place.path)

    async def _request(
        self, session: PolicySession, continuation: tuple[int, ...], draw: Draw, path: Path | None
    ) -> Drawn | None:
        for _ in range(ATTEMPTS):
            await self._live.enter()
            try:
                with self._watch.during("draw", path, ahead=draw.priority == AHEAD_PRIORITY):
                    drawn = await session.draw(continuation, draw)
            except EngineDead:
                raise
            except EngineError as error:
                forget_frames(error)
                self.spent["requests_failed"] += 1
                continue
            except asyncio.CancelledError:
                self.spent["requests_aborted"] += 1
                self.spent["candidates_aborted"] += path is not None
                raise
            finally:
                self._live.leave()
            self.spent["policy_prompt_tokens"] += drawn.prompt_tokens
            self.spent["policy_cached_tokens"] += drawn.cached_tokens
            return drawn
        return None

    def _candidate(self, place: Place, drawn: Drawn) -> Candidate:
        text = self._policy.vocabulary.decode(drawn.token_ids)
        segment = self._grammar.read(drawn.token_ids, text, cut=drawn.finish == "length")
        end = end_of(segment, place.chain)
        too_deep = len(place.path) > self._spec.sampling.max_steps
        if end == "step" and (too_deep or self.rations.room(place.chain) - len(drawn.token_ids) < 1):
            end = "max_steps"
        candidate = Candidate(
            path=place.path,
            token_ids=drawn.token_ids,
            text=text,
            end=end,
            step=segment.step,
            answer=segment.answer,
            logprob=drawn.logprob,
        )
        if self._spec.ruler.kind == "likelihood":
            return replace(candidate, score=likelihood_score(candidate))
        return candidate

    async def _reading(self, chain: Chain, scorer: ScorerSession, budget: Budget) -> Reading | None:
        """What the PRM says of a chain's newest candidate; chains of the same tokens share one read."""
        said = self._numbers[chain.path]
        while (known := self._readings.get(said)) is not None:
            await asyncio.wait([known])
            if not known.cancelled():
                return known.result()
        shared = self._readings[said] = asyncio.get_running_loop().create_future()
        try:
            shared.set_result(await self._read(chain, scorer, budget))
        finally:
            if not shared.done():
                # Whoever waits for a read that failed makes it for itself.
                del self._readings[said]
                shared.cancel()
        return shared.result()

    async def _read(self, chain: Chain, scorer: ScorerSession, budget: Budget) -> Reading | None:
        for attempt in range(ATTEMPTS):
            if attempt:
                try:
                    budget.reserve_reads(1)
                except BudgetExhausted:
                    return None
            try:
                with self._watch.during("read", chain.path):
                    reading = await scorer.score(chain)
            except EngineDead:
                raise
            except EngineError as error:
                forget_frames(error)
                self.spent["requests_failed"] += 1
            else:
                self.spent["prm_reads"] += 1
                self.spent["prm_prompt_tokens"] += reading.prompt_tokens
                self.spent["prm_cached_tokens"] += reading.cached_tokens
                return reading
        return None
