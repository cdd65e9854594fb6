"""What missing scores mean for an answer: a few are told, most of them are an error of the PRM's engine."""

from dataclasses import dataclass

from cos.search.errors import EngineError
from cos.search.select import finite
from cos.search.types import UNREADABLE, Chain

FEWEST_JUDGED = 4
"""Of fewer candidates no share is taken: one unlucky read is no broken PRM."""
MOST_FAILED = 0.5
"""A larger share of failed reads than this leaves nothing to decide by."""


@dataclass(slots=True)
class Trust:
    """How many of the scores that decided a search came."""

    judged: int = 0
    failed: int = 0
    """Of those, how many the PRM gave no finite number, or no reply at all."""

    def count(self, score: float | None) -> None:
        """Counts one candidate that the PRM was shown."""
        self.judged += 1
        self.failed += score is None

    def check(self) -> None:
        """Errors: EngineError when the search was decided by hardly any score."""
        if self.judged >= FEWEST_JUDGED and self.failed > MOST_FAILED * self.judged:
            raise EngineError(f"the PRM failed to score {self.failed} of {self.judged} candidates")


def doubts(winner: Chain, candidates: int, unscored: int) -> list[str]:
    """What is to be said of scores that are missing, in words for whoever asked. ``unscored`` of ``candidates``."""
    found: list[str] = []
    if unscored:
        found.append(f"{unscored} of {candidates} candidates are unscored: their reads failed or gave no finite number")
    readable = [candidate for candidate in winner.candidates if candidate.end not in UNREADABLE]
    if missing := sum(finite(candidate.score) is None for candidate in readable):
        found.append(f"{missing} of {len(readable)} parts of this answer are unscored")
    return found
