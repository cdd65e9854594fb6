"""What one search may spend, reserved before it is spent."""

from dataclasses import dataclass

from cos.search.errors import BudgetExhausted


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


class Budget:
    """Counts against `Limits`. A reservation is made for the worst case and settled by what was used."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._tokens = 0
        self._reads = 0

    @property
    def tokens_left(self) -> int | None:
        """Tokens neither spent nor reserved; None without a limit."""
        return None if self.limits.tokens is None else self.limits.tokens - self._tokens

    def reserve_tokens(self, cap: int, sharers: int) -> int:
        """Reserves room for one continuation: at most ``cap``, and no more than its share among ``sharers``.

        Errors: BudgetExhausted when not even one token is left for it.
        """
        left = self.tokens_left
        grant = cap if left is None else min(cap, left // max(1, sharers))
        if grant < 1:
            raise BudgetExhausted("tokens", self.limits.tokens or 0)
        self._tokens += grant
        return grant

    def settle_tokens(self, reserved: int, used: int) -> None:
        """Gives back what a continuation did not use."""
        self._tokens -= reserved - used

    def reserve_read(self) -> None:
        """Takes one PRM read. Errors: BudgetExhausted when none is left."""
        if self.limits.prm_reads is not None and self._reads >= self.limits.prm_reads:
            raise BudgetExhausted("prm_reads", self.limits.prm_reads)
        self._reads += 1
