"""How a limit is shared out, so that a search ends with an answer wherever the limit has room for one chain.

All of it follows from chains and from what is left before work is begun side by side, never from who came first. Where
the limit has room for the longest chain there could be, that room is kept back for the first chain of every level, and
what is beyond it widens the search. Where it has not, the search first writes one chain whole (its pilot): that is an
answer to fall back on, and it tells how long steps and chains are.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cos.search.budget import Budget, dealt
from cos.search.errors import BudgetKind
from cos.search.terms import Sampling
from cos.search.types import Chain

FIRST_STEP_TOKENS = 64
"""What a step is taken to need before any was seen."""
SLACK = 1.5
"""By how much the next step may be longer than the longest that was seen."""


@dataclass(frozen=True, slots=True)
class Growth:
    """One chain of several that grow side by side."""

    start: Chain
    """Where it begins to grow."""
    chain: Chain | None
    """Where it is by now; None when the engine failed."""
    is_over: bool = False
    """Whether it has grown as far as it was to."""
    short: BudgetKind | None = None
    """Which limit kept it from growing on, when it last might have."""

    @property
    def tokens(self) -> int:
        """What it has written."""
        return self.chain.tokens - self.start.tokens if self.chain else 0

    @property
    def steps(self) -> int:
        """Candidates that it has taken on."""
        return len(self.chain.candidates) - len(self.start.candidates) if self.chain else 0

    def grown(self, chain: Chain | None, steps: int | None) -> "Growth":
        """With one candidate more; None where the engine failed. ``steps``: how many it is to take on at most."""
        growth = Growth(self.start, chain)
        is_over = chain is None or chain.is_last or (steps is not None and growth.steps >= steps)
        return replace(growth, is_over=is_over)

    def is_whole(self, steps: int | None) -> bool:
        """Whether it came to an end that others may be measured by: an answer, or all the steps it was to take."""
        return self.chain is not None and (self.chain.is_answered or (steps is not None and self.steps >= steps))


@dataclass(frozen=True, slots=True)
class Rations:
    """What the candidates of one search may take."""

    sampling: Sampling
    free_tokens: int
    """Tokens that the policy's context has left behind the prompt."""
    read_once: bool = False
    """Whether the PRM reads a chain once, at its answer, in place of each step."""

    def room(self, chain: Chain) -> int:
        """Tokens that the policy's context has left behind a chain."""
        return self.free_tokens - chain.tokens

    def longest(self, chain: Chain) -> int:
        """Most tokens of one candidate after a chain."""
        return min(self.sampling.step_tokens, self.room(chain))

    def most_steps(self, chain: Chain, steps: int | None = None) -> int:
        """Most candidates that can follow on a chain, its answer included, where ``steps`` at most are wanted."""
        left = self.sampling.max_steps + 1 - len(chain.candidates)
        return max(1, left if steps is None else min(left, steps))

    def worst(self, chain: Chain, steps: int | None = None) -> int:
        """Most tokens that a chain can take to its end, or for ``steps`` candidates."""
        return max(1, min(self.room(chain), self.most_steps(chain, steps) * self.sampling.step_tokens))

    def step(self, chains: Iterable[Chain]) -> int:
        """What a step after these chains will hardly be longer than."""
        seen = max((candidate.tokens for chain in chains for candidate in chain.candidates), default=None)
        likely = FIRST_STEP_TOKENS if seen is None else math.ceil(SLACK * seen)
        return max(1, min(self.sampling.step_tokens, likely))

    def kept_back(self, chain: Chain, pilot: Chain | None) -> int:
        """Tokens that a chain is to have after its next candidate, to come to its end."""
        if pilot is None:
            return self.worst(chain) - self.longest(chain)
        steps = len(pilot.candidates) - len(chain.candidates) - 1
        return max(0, steps) * self.step([pilot, chain])

    def level(self, wanted: Sequence[Chain], left: int, pilot: Chain | None) -> list[int]:
        """Tokens for candidates that continue these chains, for as many as there is room for: at least the first one.
        None is granted fewer than its step will likely need, except where the first one can have no more."""
        lead, caps = wanted[0], [self.longest(chain) for chain in wanted]
        need = self.step([*wanted, *([pilot] if pilot else [])])
        free = left - self.kept_back(lead, pilot) - (need if pilot else caps[0])
        others = max(0, min(len(wanted) - 1, free // need))
        grants = [min(cap, free // others) for cap in caps[1 : 1 + others]]
        return [min(caps[0], left - sum(grants)), *grants]

    def parts(
        self,
        budget: Budget,
        waiting: Sequence[Growth],
        whole: Sequence[Growth],
        steps: int | None,
        *,
        reads: bool,
    ) -> tuple[list[Budget], BudgetKind | None]:
        """Parts of a budget for chains that grow side by side, for as many as there is room for; and which limit has
        none for the others. ``whole``: those that came to their end; ``reads``: whether steps are read."""
        tokens, looks = budget.tokens_left, budget.reads_left
        shares: list[list[int | None]] = [[None] * len(waiting), [None if looks is None else 0] * len(waiting)]
        if tokens is not None:
            shares[0] = [*self._tokens(waiting, whole, steps, tokens)]
        if reads and looks is not None:
            shares[1] = [*self._reads(waiting, whole, steps, looks)]
        served = min(map(len, shares))
        short: BudgetKind = "tokens" if len(shares[0]) == served else "prm_reads"
        parts = [budget.part(*pair) for pair in zip(*shares, strict=False)]
        return parts, short if served < len(waiting) else None

    def short(self, part: Budget, chain: Chain, *, reads: bool, is_lead: bool) -> BudgetKind | None:
        """Which limit has not what a chain's next candidate will likely need. The lead makes do with anything."""
        need = 1 if is_lead else min(self.step([chain]), self.longest(chain))
        if part.tokens_left is not None and part.tokens_left < need:
            return "tokens"
        return "prm_reads" if reads and part.reads_left is not None and part.reads_left < 1 else None

    def _tokens(self, waiting: Sequence[Growth], whole: Sequence[Growth], steps: int | None, left: int) -> list[int]:
        """Shares of the tokens. While none is ``whole``, the first has whatever it might need, and others what one step
        might; later each has what a whole one took."""
        if left < 1:
            return []
        chains = [growth.chain or growth.start for growth in waiting]
        worst = [self.worst(chain, steps) for chain in chains]
        if not whole:
            return dealt(left, [min(left, worst[0]), *(min(self.sampling.step_tokens, most) for most in worst[1:])])
        typical = max(growth.tokens for growth in whole)
        needs = [max(typical - growth.tokens, self.step([growth.chain or growth.start])) for growth in waiting]
        return dealt(left, [min(pair) for pair in zip(needs, worst, strict=True)])

    def _reads(self, waiting: Sequence[Growth], whole: Sequence[Growth], steps: int | None, left: int) -> list[int]:
        """Shares of the reads, as those of the tokens."""
        if left < 1:
            return []
        if self.read_once:
            return dealt(left, [1] * len(waiting))
        if not whole:
            first = waiting[0].chain or waiting[0].start
            return dealt(left, [min(left, self.most_steps(first, steps)), *[1] * (len(waiting) - 1)])
        typical = max(growth.steps for growth in whole)
        return dealt(left, [max(1, typical - growth.steps) for growth in waiting])
