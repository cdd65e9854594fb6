"""Draws that are begun before it is decided that they are wanted.

Such a draw is the very request that would be made later, as a candidate's seed follows from its place. So a search
comes to the same tree with it and without. A wrong guess costs tokens, never the result.
"""

import asyncio
from collections.abc import Iterable

from msgspec import Struct

from cos.search.account import Account
from cos.search.draws import Draws
from cos.search.place import Place
from cos.search.ports import Drawn
from cos.search.rations import Rations
from cos.search.tasks import forget_frames
from cos.search.terms import Terms
from cos.search.tree import Tree
from cos.search.types import Path


class Begun(Struct, frozen=True):
    """A candidate begun ahead: its draw, and the tokens it may write."""

    task: asyncio.Task[Drawn | None]
    grant: int


class Speculation:
    """What one search has begun ahead."""

    def __init__(self, terms: Terms, draws: Draws, rations: Rations, tree: Tree, account: Account) -> None:
        self.set_aside = terms.limits.for_guesses(terms.sampling.step_tokens)
        """Tokens set aside for what is begun ahead in vain; None without a limit."""
        self._is_on = terms.speculate
        self._draws = draws
        self._rations = rations
        self._tree = tree
        self._spent = account.spent
        self._begun: dict[Path, Begun] = {}
        self._dropped: list[Begun] = []

    @property
    def may_begin(self) -> bool:
        """Whether anything may be begun ahead now: not where it would take the place of what is wanted."""
        return self._is_on and self._draws.has_room

    @property
    def tokens_aborted(self) -> int:
        """Tokens of all that was aborted, begun ahead or not."""
        return self._spent["tokens_aborted"] + self._draws.tokens_aborted

    def begin(self, place: Place) -> None:
        """Begins a candidate that will probably be wanted, unless the tokens that are set aside for guesses might not
        suffice for it."""
        if place.path in self._begun or place.path in self._tree:
            return
        grant = self._rations.longest(place.chain)
        if self.set_aside is None or self._at_risk() + grant <= self.set_aside:
            self._begun[place.path] = Begun(asyncio.create_task(self._draw(place, grant)), grant)

    def take(self, path: Path, grant: int) -> asyncio.Task[Drawn | None] | None:
        """The draw of a place that is wanted now, where it was begun with this many tokens."""
        begun = self._begun.pop(path, None)
        if begun is not None and begun.grant != grant:
            # It might have written what is not granted any more, and the tree must not tell.
            self._drop(begun)
            return None
        return begun.task if begun else None

    def drop(self, paths: Iterable[Path]) -> None:
        """Aborts what was begun ahead at these places and after them."""
        for path in paths:
            for stale in [begun for begun in self._begun if begun[: len(path)] == path]:
                self._drop(self._begun.pop(stale))

    async def settle(self) -> None:
        """Drops all that was begun ahead and not taken up, and returns once none of it runs any more; what it wrote
        counts as aborted."""
        self.drop([()])
        if self._dropped:
            await asyncio.wait([begun.task for begun in self._dropped])
        self._count_dropped()

    def _drop(self, begun: Begun) -> None:
        begun.task.cancel()
        self._dropped.append(begun)
        self._spent["candidates_begun_in_vain"] += 1

    def _count_dropped(self) -> None:
        """Counts what was written in vain by draws that are over, and forgets them."""
        for begun in self._dropped:
            task = begun.task
            if task.done() and not task.cancelled() and task.exception() is None and (drawn := task.result()):
                self._spent["tokens_aborted"] += drawn.tokens
                self._spent["candidates_aborted"] += 1
        self._dropped = [begun for begun in self._dropped if not begun.task.done()]

    def _at_risk(self) -> int:
        """Tokens that were written in vain, or may yet be by what was begun ahead."""
        self._count_dropped()
        return self.tokens_aborted + sum(begun.grant for begun in (*self._begun.values(), *self._dropped))

    async def _draw(self, place: Place, grant: int) -> Drawn | None:
        try:
            return await self._draws.draw(place, grant, ahead=True)
        except BaseException as error:
            forget_frames(error)
            raise
