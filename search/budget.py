"""What one search may spend, reserved before it is spent.

A budget is shared out before work is begun side by side: each branch of a search spends from its own part alone, and
what it leaves goes back once all branches are done. So what is granted follows from the tree, never from who came
first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cos.search.errors import BudgetExhausted

GUESSES = 8
"""One of so many tokens is set aside for what is begun ahead in vain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The contract: none of these is ever exceeded. None is no limit."""

    tokens: int | None = None
    """Generated policy tokens."""
    prm_reads: int | None = None
    seconds: float | None = None
    """Wall time; enforced by the search, which returns its best chain so far."""
    live_sequences: int = 64
    """Policy requests in flight at once."""

    def for_guesses(self, step_tokens: int) -> int | None:
        """Tokens set aside for what is begun ahead in vain; None without a limit. An eighth where that is worth two
        steps of the longest kind or more, else none. What is set aside is never granted to the tree, so that
        the tree is the same whether anything is begun ahead or not."""
        if self.tokens is None:
            return None
        share = self.tokens // GUESSES
        return share if share >= 2 * step_tokens else 0


class Budget:
    """Counts against `Limits`. A reservation is made for the worst case and settled by what was used."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._tokens = limits.tokens
        self._reads = limits.prm_reads

    @property
    def tokens_left(self) -> int | None:
        """Tokens neither spent nor reserved; None without a limit."""
        return self._tokens

    @property
    def reads_left(self) -> int | None:
        """PRM reads neither spent nor reserved; None without a limit."""
        return self._reads

    def reserve_tokens(self, tokens: int) -> int:
        """Reserves so many tokens, or all that are left of them. Errors: BudgetExhausted when there is none."""
        if self._tokens is None:
            return tokens
        grant = min(tokens, self._tokens)
        if grant < 1:
            raise self.spent("tokens")
        self._tokens -= grant
        return grant

    def settle_tokens(self, reserved: int, used: int) -> None:
        """Gives back what a continuation did not use."""
        if self._tokens is not None:
            self._tokens += reserved - used

    def reserve_reads(self, reads: int) -> None:
        """Takes PRM reads. Errors: BudgetExhausted when there are fewer left, and nothing is taken."""
        if self._reads is None:
            return
        if reads > self._reads:
            raise self.spent("prm_reads")
        self._reads -= reads

    def settle_reads(self, reserved: int, used: int) -> None:
        """Gives back reads that were not made."""
        if self._reads is not None:
            self._reads += reserved - used

    def part(self, tokens: int | None, reads: int | None) -> "Budget":
        """A budget of its own out of this one. A kind that has no limit has none in the part either."""
        part = Budget(self.limits)
        if self._tokens is not None:
            part._tokens = tokens or 0
            self._tokens -= part._tokens
        if self._reads is not None:
            part._reads = reads or 0
            self._reads -= part._reads
        return part

    def take_back(self, parts: Sequence["Budget"]) -> None:
        """What parts of this budget have left is its own again."""
        for part in parts:
            if self._tokens is not None:
                self._tokens += part.tokens_left or 0
            if self._reads is not None:
                self._reads += part.reads_left or 0

    def spent(self, kind: str) -> BudgetExhausted:
        """The error that tells of a limit, "tokens" or "prm_reads"."""
        if kind == "tokens":
            return BudgetExhausted("tokens", self.limits.tokens or 0)
        return BudgetExhausted("prm_reads", self.limits.prm_reads or 0)


def dealt(left: int, needs: Sequence[int]) -> list[int]:
    """Shares of what is left, in order, for as many as can have what they need; these share the rest evenly."""
    shares: list[int] = []
    for need in needs:
        if need > left:
            break
        shares.append(need)
        left -= need
    if not shares:
        return []
    each, more = divmod(left, len(shares))
    return [share + each + (index < more) for index, share in enumerate(shares)]


def even_parts(left: int | None, n: int) -> list[int | None]:
    """What is left in n equal parts, the first ones one larger; None without a limit."""
    if left is None:
        return [None] * n
    each, more = divmod(left, n)
    return [each + (index < more) for index in range(n)]
