"""Ranking, voting and aggregation: how scores of steps become the order of chains."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from cos.search.scale import Aggregation, Scale
from cos.search.types import Candidate, Chain

ScoreKind = Literal["prm", "likelihood"]

PROBABILITIES = Scale(aggregation="mean")
"""The scale of scores that say how likely a step is right."""


def finite(score: float | None) -> float | None:
    """The score, or None for one that is missing, NaN or infinite."""
    return score if score is not None and math.isfinite(score) else None


@dataclass(frozen=True, slots=True)
class Ruler:
    """Measures chains. PRM scores are aggregated; a likelihood is the log-probability of the whole text."""

    kind: ScoreKind
    aggregation: Aggregation
    step_weight: float = 0.2
    """Share of the steps' mean in a "cos" chain score; the answer has the rest."""
    scale: Scale = PROBABILITIES
    """Of the PRM's scores."""

    @property
    def gives_probabilities(self) -> bool:
        """Whether a score says how likely a step is right: a likelihood does not."""
        return self.kind == "prm" and self.scale.is_probability

    @property
    def gives_probabilities_of_steps(self) -> bool:
        """Whether each step has such a score."""
        return self.gives_probabilities and self.scale.judges == "steps"

    def value(self, chain: Chain) -> float | None:
        """A chain's score so far; an unanswered chain is measured by its steps. None if any score is missing."""
        if self.kind == "likelihood":
            return finite(chain.logprob)
        if self.scale.judges != "steps":
            return finite(chain.answer_score)
        scores = [candidate.score for candidate in chain.candidates]
        known = [score for score in scores if score is not None and math.isfinite(score)]
        if not known or len(known) < len(scores):
            return None
        match self.aggregation:
            case "cos":
                return self._cos(known, answered=chain.is_answered)
            case "mean":
                return math.fsum(known) / len(known)
            case "min":
                return min(known)
            case "prod":
                return math.prod(known)
            case "last":
                return known[-1]

    def _cos(self, scores: Sequence[float], *, answered: bool) -> float:
        if not answered:
            return math.fsum(scores) / len(scores)
        steps, answer = scores[:-1], scores[-1]
        if not steps:
            return answer
        return self.step_weight * math.fsum(steps) / len(steps) + (1 - self.step_weight) * answer

    def ceiling(self, chain: Chain, most_steps: int) -> float:
        """The highest score that a growing chain of ``most_steps`` at most can still come to, by the scores that are
        known."""
        if self.kind == "likelihood":
            return 0.0 if chain.logprob is None else chain.logprob
        known = [score for candidate in chain.candidates if (score := finite(candidate.score)) is not None]
        # Whatever is not known yet may be the highest there is.
        highest, steps = self.scale.highest, max(most_steps, len(chain.candidates))
        if not math.isfinite(highest):
            return min(known, default=highest) if self.aggregation == "min" else highest
        match self.aggregation:
            case "cos":
                most = (steps - len(known)) * highest + math.fsum(known)
                return self.step_weight * most / steps + highest - self.step_weight * highest
            case "mean":
                return ((steps + 1 - len(known)) * highest + math.fsum(known)) / (steps + 1)
            case "min":
                return min(known, default=highest)
            case "prod":
                return math.prod(known) if highest <= 1 else math.inf
            case "last":
                return highest

    def newest(self, chain: Chain) -> float | None:
        """The score of a chain's newest candidate alone."""
        return finite(chain.candidates[-1].score) if chain.candidates else None

    def confidence(self, chain: Chain) -> float | None:
        """The chain's score as a number from 0 to 1; None where it is unscored, or its scale has no ends.

        A likelihood is there what a token has on average (the geometric mean): that of a whole text is next to 0 for
        any text of some length, and tells no two apart."""
        value = self.value(chain)
        if value is None:
            return None
        if self.kind == "prm":
            return self.scale.portion(value)
        return math.exp(min(0.0, value / max(1, chain.tokens)))


RankKey = tuple[bool, bool, float, int, tuple[int, ...]]


def rank_key(chain: Chain, value: float | None) -> RankKey:
    """Sort key, best first: answered before not, scored before not, higher value, fewer tokens, earlier path.

    Paths are unique, so the order is total and no tie depends on who came first.
    """
    value = finite(value)
    return (not chain.is_answered, value is None, -(value or 0.0), chain.tokens, chain.path)


def rank(chains: Iterable[Chain], ruler: Ruler) -> list[Chain]:
    """Chains, best first."""
    return sorted(chains, key=lambda chain: rank_key(chain, ruler.value(chain)))


def rank_level(chains: Iterable[Chain], measure: Callable[[Chain], float | None]) -> list[Chain]:
    """Chains of one level, best first by ``measure``, steps and answers alike; what cannot be used comes last."""

    def key(chain: Chain) -> RankKey:
        score = measure(chain)
        dead_end = chain.is_last and not chain.is_answered
        return (dead_end, score is None, -(score or 0.0), chain.tokens, chain.path)

    return sorted(chains, key=key)


def likelihood_score(candidate: Candidate) -> float | None:
    """The step score without a PRM: log-probability per token."""
    return finite(candidate.mean_logprob)
