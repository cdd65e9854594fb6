"""How far a search's scores can be trusted: a few that are missing are a warning, most of them an error of the PRM."""

from dataclasses import dataclass, field

from cos.search.errors import EngineError
from cos.search.models import Models
from cos.search.select import Ruler, finite
from cos.search.tournament import MOST_FINALISTS
from cos.search.types import UNREADABLE, Chain, Path

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
    too_long: set[Path] = field(default_factory=set[Path])
    """The chains that the PRM's context has no room for."""
    compared: tuple[int, int] = (0, 0)
    """How many answers a tournament was held among, and how many different ones there were."""

    def count(self, score: float | None) -> None:
        """Counts one candidate that the PRM was shown. Those that say the same are one."""
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
        """That chains are too long for the PRM, or that its format does not keep to its own scale, in words for whoever
        asked."""
        found: list[str] = []
        if self.too_long:
            found.append(
                f"{len(self.too_long)} chains are longer than the PRM's context has room for, and have no score; "
                "ask for fewer or shorter steps (max_steps, step_tokens)"
            )
        if self.beyond:
            found.append(f"{self.beyond} of the PRM's numbers are not on its format's scale, and were not used")
        finalists, answers = self.compared
        if finalists < answers:
            found.append(
                f"{answers - finalists} of {answers} different answers were not compared, and cannot win: a tournament "
                f"is held among {MOST_FINALISTS}, or as many as budget.prm_reads allows; ask for a smaller n"
            )
        return found


def score_warnings(winner: Chain, candidates: int, unscored: int, ruler: Ruler) -> list[str]:
    """Which scores are missing, in words for whoever asked. ``unscored`` of ``candidates``."""
    found: list[str] = []
    judged = ruler.scale.judges if ruler.kind == "prm" else "steps"
    if judged != "steps":
        how = "judges whole answers" if judged == "answers" else "compares whole answers with each other"
        found.append(f"steps have no score: this PRM {how}")
    if unscored:
        found.append(f"{unscored} of {candidates} candidates are unscored: their reads failed or gave no finite number")
    readable = [candidate for candidate in winner.candidates if candidate.end not in UNREADABLE]
    if judged != "steps":
        readable = [candidate for candidate in readable if candidate.end == "answer"]
    if missing := sum(finite(candidate.score) is None for candidate in readable):
        found.append(f"{missing} of {len(readable)} parts of this answer are unscored")
    return found


def picture_warnings(pictures: int, models: Models) -> list[str]:
    """That the PRM was not shown so many pictures, in words for whoever asked; nothing where it was, or where there
    are none."""
    if not pictures or models.prm_sees_pictures:
        return []
    what = "the picture" if pictures == 1 else f"the {pictures} pictures"
    return [
        f"the PRM was not shown {what}, because its format {models.prm_format!r} has none: "
        "its scores say how good the text is, and not whether it fits what can be seen"
    ]


def scale_warnings(ruler: Ruler, chain: Chain) -> list[str]:
    """That chains were to be weighed by scores that have no ends, in words for whoever asked."""
    if ruler.kind != "prm" or ruler.scale.is_bounded or ruler.value(chain) is None:
        return []
    others = (
        "best_of_n or beam, which only compare" if ruler.scale.judges == "steps" else "best_of_n, which only compares"
    )
    return [
        "the PRM's scores have no lowest and highest value, so this strategy could not weigh chains by them; "
        f"ask for {others} scores"
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
