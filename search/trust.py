"""How far a search's scores can be trusted: a few that are missing are a warning, most of them an error of the PRM."""

from dataclasses import dataclass

from cos.search.errors import EngineError
from cos.search.select import Ruler, finite
from cos.search.types import UNREADABLE, Chain

FEWEST_JUDGED = 4
"""Of fewer candidates no share is taken: one unlucky read is no broken PRM."""
MOST_FAILED = 0.5
"""A larger share of failed reads than this leaves nothing to decide by."""

DOUBTFUL = 0.5
"""A confidence below this, of 1, is warned of."""


@dataclass(slots=True)
class Trust:
    """How many of the scores that decided a search came."""

    judged: int = 0
    failed: int = 0
    """Of those, how many the PRM gave no number on its scale, or no reply at all."""
    beyond: int = 0
    """How many finite numbers were not on the PRM's scale, and so no scores."""

    def count(self, score: float | None) -> None:
        """Counts one candidate that the PRM was shown."""
        self.judged += 1
        self.failed += score is None

    def check(self) -> None:
        """Errors: EngineError when the search was decided by hardly any score."""
        if self.judged >= FEWEST_JUDGED and self.failed > MOST_FAILED * self.judged:
            raise EngineError(
                "; ".join([f"the PRM failed to score {self.failed} of {self.judged} candidates", *self.warnings])
            )

    @property
    def warnings(self) -> list[str]:
        """That the PRM's format does not keep to its own scale, in words for whoever asked."""
        return (
            [f"{self.beyond} of the PRM's numbers are not on its format's scale, and were not used"]
            if self.beyond
            else []
        )


def score_warnings(winner: Chain, candidates: int, unscored: int) -> list[str]:
    """Which scores are missing, in words for whoever asked. ``unscored`` of ``candidates``."""
    found: list[str] = []
    if unscored:
        found.append(f"{unscored} of {candidates} candidates are unscored: their reads failed or gave no finite number")
    readable = [candidate for candidate in winner.candidates if candidate.end not in UNREADABLE]
    if missing := sum(finite(candidate.score) is None for candidate in readable):
        found.append(f"{missing} of {len(readable)} parts of this answer are unscored")
    return found


def scale_warnings(ruler: Ruler, chain: Chain) -> list[str]:
    """That chains were to be weighed by scores that have no ends, in words for whoever asked."""
    if ruler.kind != "prm" or ruler.scale.is_bounded or ruler.value(chain) is None:
        return []
    return [
        "the PRM's scores have no lowest and highest value, so this strategy could not weigh chains by them; "
        "ask for best_of_n or beam, which only compare scores"
    ]


def answer_warnings(winner: Chain, ruler: Ruler) -> list[str]:
    """That there is no answer, or that its scores speak against it, in words for whoever asked."""
    if winner.answer is None:
        return [f"there is no answer: the best chain ended with {winner.candidates[-1].end!r}"]
    score, confidence, threshold = finite(winner.answer_score), ruler.confidence(winner), ruler.scale.threshold
    if ruler.kind == "prm" and score is not None and threshold is not None and score < threshold:
        if ruler.gives_probabilities:
            return [f"the PRM gives this answer {score:.2f} of 1, so it is more likely wrong than right"]
        return [f"the PRM gives this answer {score:.2f}, less than its threshold of {threshold:g}: likely wrong"]
    if confidence is None or confidence >= DOUBTFUL:
        return []
    whose = f"the PRM's scores of this chain, by {ruler.aggregation!r}"
    if ruler.kind == "likelihood":
        whose = "what the policy gives a token of this chain on average"
    return [f"the confidence is {confidence:.2f} of 1 ({whose}), so this answer is doubtful"]
