"""How candidates come by their scores. Each read of the PRM is paid for, tried twice, and counted.

A chain that says what another one said already is not read again: both have the score of one read.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from cos.search.account import Account
from cos.search.budget import Budget
from cos.search.errors import BudgetExhausted, ChainTooLong, EngineDead, EngineError
from cos.search.events import Event, Scored
from cos.search.ports import ComparesAnswers, Reading, ScorerSession
from cos.search.select import finite
from cos.search.stopwatch import Stopwatch
from cos.search.tasks import forget_frames
from cos.search.terms import Terms
from cos.search.tournament import finalists_of, play
from cos.search.tree import Tree
from cos.search.trust import Trust
from cos.search.types import Chain, Path

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
        self._judged_ends = self._scale.judged_ends
        self._session = session
        self._tree = tree
        self._spent = account.spent
        self._emit = emit
        self._watch = watch
        self._decisive: set[int] = set()
        """Numbers of the texts whose scores the search goes by."""
        self._said: dict[int, float | None] = {}
        self._being_read: dict[int, asyncio.Future[None] | None] = {}
        """By number of the text; with a future once somebody waits for the read: most reads are nobody else's."""

    @property
    def has_scorer(self) -> bool:
        """Whether there is a PRM to read for it."""
        return self._session is not None

    def judges(self, chain: Chain) -> bool:
        """Whether the PRM is shown a chain's newest candidate."""
        return chain.candidates[-1].end in self._judged_ends

    @property
    def tokens_aborted(self) -> int:
        """Tokens that the PRM wrote for reads that came to nothing."""
        return getattr(self._session, "tokens_aborted", 0)  # of one that `WritesVerdicts`

    async def score(self, chain: Chain, budget: Budget, *, decides: bool = True) -> None:
        """Gives a chain's newest candidate its score. What the grammar cannot read is never shown to the PRM, nor are
        steps to one that judges whole answers. The read is paid for by then; ``budget`` pays for a second try.
        ``decides``: whether the search goes by the score."""
        newest = chain.candidates[-1]
        if self._by_prm:
            if self._session is None or not self.judges(chain):
                return
            said = await self._verdict(chain, self._session, budget)
            self.read.add(newest.path)
            newest.score = self._scale.usable(said)
            self.trust.beyond += newest.score is None and finite(said) is not None
            if decides and (text := self._tree.text_number(newest.path)) not in self._decisive:
                # However many say the same, it was one read.
                self._decisive.add(text)
                self.trust.count(newest.score)
        if newest.score is None:
            self._spent["unscored"] += 1
        self._emit(Scored(newest.path, newest.score))

    async def tournament(self, chains: Sequence[Chain], budget: Budget) -> None:
        """Has the answered chains compared with each other, where the PRM does so: each is given its score. Errors:
        BudgetExhausted where there are no reads for two of them; EngineDead."""
        session = self._session
        if not self._by_prm or not isinstance(session, ComparesAnswers):
            return
        finalists = finalists_of(chains, budget.reads_left)
        answered = len({chain.prefix for chain in chains if chain.is_answered})
        if len(finalists) < min(2, answered):
            raise budget.spent("prm_reads")
        self.trust.compared = (len(finalists), answered)
        budget.reserve_reads(len(finalists) * (len(finalists) - 1))

        async def compare(one: Chain, other: Chain) -> float | None:
            reading = await self._read(partial(session.compare, one, other), one.path, budget)
            return self._scale.usable(reading.score) if reading else None

        scores = dict(zip((chain.prefix for chain in finalists), await play(finalists, compare), strict=True))
        if len(finalists) < 2:
            return
        for score in scores.values():
            self.trust.count(score)
        for chain in chains:
            if chain.prefix in scores:
                newest = chain.candidates[-1]
                newest.score = scores[chain.prefix]
                self._spent["unscored"] += newest.score is None
                self._emit(Scored(newest.path, newest.score))

    async def _verdict(self, chain: Chain, session: ScorerSession, budget: Budget) -> float | None:
        """What the PRM says of a chain's newest candidate, None where a read came to nothing; chains of the same text
        share one read."""
        text = self._tree.text_number(chain.path)
        while text in self._being_read:
            waiting = self._being_read[text] = self._being_read[text] or asyncio.get_running_loop().create_future()
            await asyncio.wait([waiting])
        # Where the other's read was broken off, this chain is read for itself.
        if text not in self._said:
            self._being_read[text] = None
            try:
                reading = await self._read(partial(session.score, chain), chain.path, budget)
                self._said[text] = None if reading is None else reading.score
            finally:
                if (waited_for := self._being_read.pop(text)) is not None:
                    waited_for.set_result(None)
        return self._said[text]

    async def _read(self, ask: Callable[[], Awaitable[Reading]], path: Path, budget: Budget) -> Reading | None:
        for attempt in range(ATTEMPTS):
            if attempt:
                try:
                    budget.reserve_reads(1)
                except BudgetExhausted:
                    return None
            try:
                with self._watch.during("read", path):
                    reading = await ask()
            except EngineDead:
                raise
            except ChainTooLong as error:
                forget_frames(error)
                self.trust.too_long.add(path)
                return None
            except EngineError as error:
                forget_frames(error)
                self._spent["requests_failed"] += 1
            else:
                self._spent["prm_reads"] += 1
                self._spent["prm_prompt_tokens"] += reading.prompt_tokens
                self._spent["prm_cached_tokens"] += reading.cached_tokens
                self._spent["prm_tokens_generated"] += reading.tokens
                return reading
        return None
