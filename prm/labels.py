"""Two labels and the probability that they stand for."""

import math

LEAST_LABEL_LOGPROB = math.log(1e-6)
"""A model that gives each label less than this was never taught to judge: what it would say is noise."""


def p_good(good: float, bad: float) -> float | None:
    """Two-way softmax of two log-probabilities; None when they are not finite, or both so small that the model meant
    neither."""
    margin = good - bad
    if not math.isfinite(margin) or max(good, bad) < LEAST_LABEL_LOGPROB:
        return None
    return 1 / (1 + math.exp(-margin)) if margin >= 0 else math.exp(margin) / (1 + math.exp(margin))
