"""What the scores of a PRM mean: their range, and how step scores become a chain's score."""

import math
from typing import Literal

from msgspec import Struct

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
    is_probability: bool = True
    """Whether a score says how likely a step is right."""

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
