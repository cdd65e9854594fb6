"""What the scores of a PRM mean: their range, and how step scores become a chain's score."""

import math
from typing import Literal, get_args

from msgspec import Struct

from cos.search.types import UNREADABLE, End

Aggregation = Literal["cos", "mean", "min", "prod", "last"]
"""How step scores become a chain's score. "cos": the steps' mean and the answer's score, weighted (arXiv 2509.19003,
sections 3.4 and 4.3.1)."""


class Scale(Struct, frozen=True, kw_only=True):
    """The scale of one PRM format, as its authors use it."""

    aggregation: Aggregation
    """How a chain's score is made unless a request says otherwise."""
    step_weight: float = 0.2
    """Share of the steps' mean under "cos"; the answer has the rest."""
    threshold: float | None = 0.5
    """A step that scores less is taken for wrong; None where the format has no such number."""
    lowest: float = 0.0
    highest: float = 1.0
    judges: Literal["steps", "answers", "pairs"] = "steps"
    """Whether every step has a score, or whole answers only, or these only by comparison with others: a chain's score
    is then its answer's."""
    is_probability: bool = True
    """Whether a score says how likely a step is right."""

    def __post_init__(self) -> None:
        """Errors: ValueError for a scale that nothing can be measured on."""
        if not self.lowest < self.highest:
            raise ValueError(f"a scale from {self.lowest:g} to {self.highest:g} has no room; give lowest < highest")
        if self.threshold is not None and not self.lowest <= self.threshold <= self.highest:
            raise ValueError(
                f"the threshold {self.threshold:g} is not on the scale from {self.lowest:g} to {self.highest:g}; "
                "give one that is, or None"
            )
        if not 0 <= self.step_weight <= 1:
            raise ValueError(f"step_weight = {self.step_weight:g}; give a share from 0 to 1")
        if self.aggregation not in get_args(Aggregation):
            raise ValueError(f"unknown aggregation {self.aggregation!r}; there are {', '.join(get_args(Aggregation))}")

    @property
    def judged_ends(self) -> frozenset[End]:
        """The ends of candidates that are shown to the PRM, each by itself."""
        match self.judges:
            case "steps":
                return frozenset(get_args(End)) - UNREADABLE
            case "answers":
                return frozenset({"answer"})
            case "pairs":
                return frozenset()

    @property
    def has_products(self) -> bool:
        """Whether the product of scores is a score: of numbers that are negative or above 1 a longer chain's may be
        anything."""
        return self.lowest >= 0 and self.highest <= 1

    def usable(self, score: float | None) -> float | None:
        """The score; None for one that is missing, no finite number, or not on the scale. What rounding has put beyond
        an end counts as that end."""
        if score is None or not math.isfinite(score):
            return None
        if self.lowest <= score <= self.highest:
            return score
        nearest = min(max(score, self.lowest), self.highest)
        return nearest if math.isclose(score, nearest, rel_tol=1e-6, abs_tol=1e-6) else None

    @property
    def is_bounded(self) -> bool:
        """Whether scores have a lowest and a highest value."""
        return math.isfinite(self.lowest) and math.isfinite(self.highest)

    def portion(self, score: float) -> float | None:
        """A score as a share of the way from the lowest to the highest; None on a scale without ends."""
        if not self.is_bounded:
            return None
        return (score - self.lowest) / (self.highest - self.lowest)

    def at(self, portion: float) -> float | None:
        """The score at a share of the way from the lowest to the highest; None on a scale without ends."""
        return self.lowest + portion * (self.highest - self.lowest) if self.is_bounded else None
