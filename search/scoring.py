"""How candidates come by their scores. Each read of the PRM is paid for, tried twice, and counted.

A chain that says what another one said already is not read again: both have the score of one read.
"""

import asyncio
from collections.abc import Callable

from cos.search.account import Account
from cos.search.budget import Budget
from cos.search.errors import BudgetExhausted, EngineDead, EngineError
from cos.search.events import Event, Scored
from cos.search.ports import Reading, ScorerSession
from cos.search.select import finite
from cos.search.stopwatch import Stopwatch
from cos.search.tasks import forget_frames
from cos.search.terms import Terms
from cos.search.tree import Tree
from cos.search.trust import Trust
from cos.search.types import UNREADABLE, Chain, Path

ATTEMPTS = 2
"""Tries for one read."""


class Scoring:
    """The PRM of one search, and what it has read."""

    def __init__(
        self,
        terms: Terms,
        session: ScorerSession | None,
        tree: Tree,
        account: Account,
        emit: Callable[[Event], None],
        watch: Stopwatch,
    ) -> None:
        self.read: set[Path] = set()
        """Candidates that were shown to the PRM."""
        self.trust = Trust()
        self._by_prm = terms.ruler.kind == "prm"
        self._scale = terms.ruler.scale
        self._session = session
        self._tree = tree
        self._spent = account.spent
        self._emit = emit
        self._watch = watch
        self._readings: dict[int, asyncio.Future[Reading | None]] = {}

    @property
    def has_scorer(self) -> bool:
        """Whether there is a PRM to read for it."""
        return self._session is not None

    async def score(self, chain: Chain, budget: Budget, *, decides: bool = True) -> None:
        """Gives a chain's newest candidate its score. What the grammar cannot read is never shown to the PRM. The read
        is paid for by then; ``budget`` pays for a second try. ``decides``: whether the search goes by the score."""
        newest = chain.candidates[-1]
        if self._by_prm:
            if self._session is None or newest.end in UNREADABLE:
                return
            reading = await self._reading(chain, self._session, budget)
            self.read.add(newest.path)
            given = finite(reading.score) if reading else None
            newest.score = self._scale.usable(given)
            self.trust.beyond += given is not None and newest.score is None
            if decides:
                self.trust.count(newest.score)
        if newest.score is None:
            self._spent["unscored"] += 1
        self._emit(Scored(newest.path, newest.score))

    async def _reading(self, chain: Chain, session: ScorerSession, budget: Budget) -> Reading | None:
        """What the PRM says of a chain's newest candidate; chains of the same text share one read."""
        text = self._tree.text_number(chain.path)
        while (known := self._readings.get(text)) is not None:
            await asyncio.wait([known])
            if not known.cancelled():
                return known.result()
        shared = self._readings[text] = asyncio.get_running_loop().create_future()
        try:
            shared.set_result(await self._read(chain, session, budget))
        finally:
            if not shared.done():
                # Whoever waits for a read that failed makes it for itself.
                del self._readings[text]
                shared.cancel()
        return shared.result()

    async def _read(self, chain: Chain, session: ScorerSession, budget: Budget) -> Reading | None:
        for attempt in range(ATTEMPTS):
            if attempt:
                try:
                    budget.reserve_reads(1)
                except BudgetExhausted:
                    return None
            try:
                with self._watch.during("read", chain.path):
                    reading = await session.score(chain)
            except EngineDead:
                raise
            except EngineError as error:
                forget_frames(error)
                self._spent["requests_failed"] += 1
            else:
                self._spent["prm_reads"] += 1
                self._spent["prm_prompt_tokens"] += reading.prompt_tokens
                self._spent["prm_cached_tokens"] += reading.cached_tokens
                return reading
        return None
