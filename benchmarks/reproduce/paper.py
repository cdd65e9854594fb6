"""The figures of the paper that are set beside ours (arXiv 2509.19003; figure 3 is read off the image, +-0.1).

All in per cent. Its search figures are of one policy, LLaVA-NeXt after SFT, on multiple-choice questions.
"""

from collections.abc import Mapping

from cos.prm.cos import CosPrm

SCALE = CosPrm.scale
"""What the scores of its PRM mean, and how they make a chain's score."""

WIDTHS = (1, 4, 8, 16, 32)
"""Chains a question, of those in figure 5."""

M3COT: Mapping[str, tuple[float, ...]] = {
    "pass_at_k": (67.4, 87.7, 95.1, 97.7, 98.5),
    "beam": (67.4, 79.5, 81.8, 83.1, 83.7),
    "best_of_n": (67.4, 78.2, 81.1, 82.6, 83.3),
    "self_consistency": (67.4, 68.5, 70.7, 71.1, 71.5),
}
"""Figure 5, M3CoT."""

MMSTAR: Mapping[str, tuple[float, ...]] = {
    "pass_at_k": (54.7, 76.1, 87.7, 94.9, 96.5),
    "beam": (54.7, 62.1, 65.4, 67.9, 69.3),
    "best_of_n": (54.7, 61.5, 64.9, 67.7, 68.9),
    "self_consistency": (54.7, 51.0, 52.8, 56.2, 59.1),
}
"""Figure 5, MMStar."""

STEP_WEIGHTS = (81.3, 82.3, 82.6, 82.5, 82.2, 81.8, 80.9, 80.9, 80.3, 79.4, 74.7)
"""Figure 3: best-of-16 on M3CoT for step weights 0, 0.1, ... 1."""

STEPS_PRM = (6.22, 5.48, 5.25, 5.01, 4.96, 4.99, 5.01)
"""Figure 6: mean steps a chain after 0 to 6 rounds of DPO on pairs by the PRM."""

STEPS_OUTCOME = (6.22, 6.29, 6.38, 6.37, 6.45, 6.46, 6.55)
"""Figure 6: the same on pairs by outcome."""

REWARDS: Mapping[str, tuple[float, float, float]] = {
    "sft": (51.4, 54.7, 67.4),
    "answer": (53.1, 57.3, 69.7),
    "outcome": (53.5, 58.1, 70.0),
    "prm": (54.7, 58.9, 71.7),
}
"""Table 2: MathVista, MMStar, M3CoT by what chose the pairs."""

STEP_ACCURACY, ANSWER_ACCURACY = 87.3, 88.7
"""Table 3: the 38B PRM on unseen questions."""


def ahead(curve: str, baseline: str, width: int) -> str:
    """By how much one way to search is ahead of another at a width, on both sets."""
    at = WIDTHS.index(width)
    gaps = [sets[curve][at] - sets[baseline][at] for sets in (M3COT, MMSTAR)]
    return "{:+.1f} (M3CoT), {:+.1f} (MMStar)".format(*gaps)


def gained(curve: str, width: int, since: int) -> str:
    """By how much a way to search gains from one width to another, on both sets."""
    to, start = WIDTHS.index(width), WIDTHS.index(since)
    gaps = [sets[curve][to] - sets[curve][start] for sets in (M3COT, MMSTAR)]
    return "{:+.1f} (M3CoT), {:+.1f} (MMStar)".format(*gaps)


def reward_gap(reward: str, baseline: str) -> str:
    """By how much the accuracy with pairs by one reward is above that with another, on all three sets."""
    gaps = [mine - other for mine, other in zip(REWARDS[reward], REWARDS[baseline], strict=True)]
    return "{:+.1f}, {:+.1f}, {:+.1f} (MathVista, MMStar, M3CoT)".format(*gaps)
