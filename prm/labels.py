"""Labels and the probabilities that they stand for."""

import math
from collections.abc import Sequence

LEAST_LABEL_LOGPROB = math.log(1e-6)
"""A model that gives each label less than this was never taught to judge: what it would say is noise."""


def p_good(good: float, bad: float, least: float = LEAST_LABEL_LOGPROB) -> float | None:
    """Two-way softmax of two log-probabilities; None when they are not finite, or both so small (below ``least``) that
    the model meant neither."""
    margin = good - bad
    if not math.isfinite(margin) or max(good, bad) < least:
        return None
    return 1 / (1 + math.exp(-margin)) if margin >= 0 else math.exp(margin) / (1 + math.exp(margin))


def shares(logprobs: Sequence[float]) -> tuple[float, ...] | None:
    """Softmax of the log-probabilities of any number of labels, in their order; None when one is not finite, or all are
    so small that the model meant none."""
    largest = max(logprobs, default=-math.inf)
    if not all(map(math.isfinite, logprobs)) or largest < LEAST_LABEL_LOGPROB:
        return None
    weights = [math.exp(logprob - largest) for logprob in logprobs]
    return tuple(weight / math.fsum(weights) for weight in weights)
