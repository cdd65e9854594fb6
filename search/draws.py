"""A search's requests to its policy. Each waits for room, is tried twice, and is counted."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

from msgspec.structs import replace

from cos.search.account import Account
from cos.search.budget import Budget
from cos.search.errors import EngineDead, EngineError
from cos.search.place import Place, seed_of
from cos.search.ports import Draw, Drawn, Policy, PolicySession, ReportsLoad, Stops
from cos.search.stopwatch import Stopwatch
from cos.search.tasks import Gate, forget_frames
from cos.search.terms import Terms
from cos.search.types import Candidate, Path, Piece, Prefix

ATTEMPTS = 2
"""Tries for one request: an engine error before any token was delivered is retried once."""
AHEAD_PRIORITY = 1_000
"""What is begun ahead runs behind everything that is wanted now."""
NO_STOPS = Stops()


class Draws:
    """The policy of one search, and its sessions."""

    def __init__(
        self,
        terms: Terms,
        stops: Stops,
        policy: Policy,
        session: PolicySession,
        account: Account,
        watch: Stopwatch,
    ) -> None:
        """``stops``: what ends a piece."""
        self._terms = terms
        self._stops = stops
        self._session = session
        self._sessions = [session]
        self._context_tokens = policy.context_tokens
        # isinstance of a protocol takes as long as ten candidates do.
        self._load = cast("ReportsLoad", policy) if hasattr(policy, "is_saturated") else None
        self._live = Gate(terms.limits.live_sequences)
        self._account = account
        self._watch = watch
        self._lost = 0
        """Tokens of pieces that were broken off while the policy wrote on."""

    @property
    def has_room(self) -> bool:
        """Whether one request more would take nobody's place."""
        return not self._live.is_full and (self._load is None or not self._load.is_saturated)

    @property
    def tokens_aborted(self) -> int:
        """Tokens of requests that were aborted, as far as the runtime knows them."""
        return self._lost + sum(session.tokens_aborted for session in self._sessions)

    def draw(self, place: Place, grant: int, *, ahead: bool = False) -> Coroutine[Any, Any, Drawn | None]:
        """A piece of ``grant`` tokens at most for a place; None when the engine failed twice."""
        sampling = self._terms.sampling
        draw = Draw(
            max_tokens=grant,
            stops=self._stops,
            seed=seed_of(sampling.seed, place.path),
            temperature=place.temperature,
            top_p=sampling.top_p,
            logprobs=self._terms.ruler.kind == "likelihood",
            priority=AHEAD_PRIORITY if ahead else -len(place.path),
        )
        return self._request(self._session, place.chain.prefix, draw, place.path)

    async def draw_on(self, place: Place, drawn: Drawn, grant: int, goes_on: Callable[[Drawn], bool]) -> Drawn:
        """The same piece, written on for as long as its grammar says that it is not whole, up to ``grant`` tokens in
        all; as it stands when the engine failed twice."""
        while drawn.tokens < grant and goes_on(drawn):
            begun = Candidate(
                path=place.path, written=drawn.written, tokens=drawn.tokens, piece=Piece("step", ""), end="step"
            )
            try:
                more = await self.draw(replace(place, chain=place.chain.then(begun)), grant - drawn.tokens)
            except BaseException:
                self._lost += drawn.tokens
                raise
            if more is None or not more.tokens:
                break
            drawn = _together(drawn, more)
        return drawn

    async def ask(self, session: PolicySession, path: Path, max_tokens: int, budget: Budget) -> str:
        """What the policy says to a prompt of the search's own, as it stands; empty when the engine failed twice.
        ``path``: what its seed follows from.

        Errors: BudgetExhausted, EngineDead.
        """
        self._sessions.append(session)
        grant = budget.reserve_tokens(min(max_tokens, self._context_tokens - session.prompt_tokens))
        sampling = self._terms.sampling
        seed = seed_of(sampling.seed, path)
        draw = Draw(max_tokens=grant, stops=NO_STOPS, seed=seed, temperature=sampling.temperature)
        drawn = await self._request(session, (), draw, None)
        budget.settle_tokens(grant, drawn.tokens if drawn else 0)
        if drawn is None:
            return ""
        self._account.spent["tokens_generated"] += drawn.tokens
        self._account.spent["tokens_asked"] += drawn.tokens
        return drawn.text + drawn.turn_end

    async def _request(self, session: PolicySession, prefix: Prefix, draw: Draw, path: Path | None) -> Drawn | None:
        spent = self._account.spent
        for _ in range(ATTEMPTS):
            if not self._live.take():
                await self._live.enter()
            try:
                with self._watch.during("draw", path, ahead=draw.priority == AHEAD_PRIORITY):
                    drawn = await session.draw(prefix, draw)
            except EngineDead:
                raise
            except EngineError as error:
                forget_frames(error)
                spent["requests_failed"] += 1
                continue
            except asyncio.CancelledError:
                spent["requests_aborted"] += 1
                spent["candidates_aborted"] += path is not None
                raise
            finally:
                self._live.leave()
            spent["policy_prompt_tokens"] += drawn.prompt_tokens
            spent["policy_cached_tokens"] += drawn.cached_tokens
            return drawn
        return None


def _together(one: Drawn, more: Drawn) -> Drawn:
    """Two continuations, the second behind the first, as one."""
    told = one.logprob is not None and more.logprob is not None
    return replace(
        more,
        written=one.written + more.written,
        text=one.text + more.text,
        tokens=one.tokens + more.tokens,
        logprob=(one.logprob or 0.0) + (more.logprob or 0.0) if told else None,
    )
