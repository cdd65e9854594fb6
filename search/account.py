"""What a search has spent, and which limit it met.

In tokens: generated = kept + duplicate + asked + aborted + discarded.
"""

from collections import Counter

from cos.search.errors import BudgetKind
from cos.search.tree import Tree
from cos.search.types import Chain, Path, Usage


class Account:
    """The counts of one search."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        """By the names of `cos.search.types.Usage`."""
        self.first_candidate_at: float | None = None
        """`time.perf_counter` seconds."""
        self.starved: set[Path] = set()
        """Candidates that were cut because the token budget had no more for them."""
        self.limit: BudgetKind | None = None
        """The limit that kept the search from what its strategy wanted."""

    def meet(self, kind: BudgetKind) -> None:
        """Notes that a limit kept the search from something. Where several did, it is tokens: which came first depends
        on what ended first."""
        if kind == "tokens" or self.limit is None:
            self.limit = kind

    def usage(self, tree: Tree, winner: Chain, tokens_aborted: int, prm_tokens_aborted: int = 0) -> Usage:
        """What was spent by now, if ``winner`` is the answer's chain. ``tokens_aborted``: of all aborted requests;
        ``prm_tokens_aborted``: of verdicts that came to nothing."""
        waste = tree.waste(winner)
        counts = {
            **self.spent,
            "tokens_aborted": tokens_aborted,
            "tokens_generated": self.spent["tokens_generated"] + tokens_aborted,
            "prm_tokens_generated": self.spent["prm_tokens_generated"] + prm_tokens_aborted,
            "tokens_kept": winner.tokens,
            "tokens_duplicate": waste.tokens_duplicate,
            "tokens_discarded": waste.tokens_discarded,
            "candidates_duplicate": waste.duplicates,
        }
        return Usage(**counts)
