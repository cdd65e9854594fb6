"""Two ways to search the same problems, side by side: in turns, at each level of concurrency, round by round."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from cos.checkpoints import LedgerProblem
from cos.evaluation.accuracy import is_right
from cos.evaluation.provenance import Facts
from cos.evaluation.statistics import bootstrap_mean
from cos.search.answers import equal
from cos.search.errors import InputError

SEARCHES_A_WORKER = 4
"""Searches of each worker in a round."""


@dataclass(slots=True)
class Tally:
    """What was measured of one way to search."""

    latencies_s: list[float] = field(default_factory=list[float])
    rates: list[float] = field(default_factory=list[float])
    """Searches a second, round by round."""
    answers: dict[str, str | None] = field(default_factory=dict[str, str | None])
    right: dict[str, bool] = field(default_factory=dict[str, bool])
    tokens: int = 0
    """Written by the policy."""

    def add(self, problem: LedgerProblem, answer: str | None, latency_s: float, tokens: int) -> None:
        """One search."""
        self.latencies_s.append(latency_s)
        self.answers[problem.id] = answer
        self.right[problem.id] = is_right(answer, problem)
        self.tokens += tokens

    def facts(self) -> Facts:
        """As numbers."""
        import numpy as np

        median, late = np.percentile(self.latencies_s, (50, 95))
        searches = len(self.latencies_s)
        return {
            "searches_per_s": sum(self.rates) / len(self.rates),
            "latency_p50_s": float(median),
            "latency_p95_s": float(late),
            "tokens_per_search": self.tokens / searches,
            "searches": searches,
            "accuracy": sum(self.right.values()) / searches,
        }


Round = Callable[[Sequence[LedgerProblem], int, Tally], Awaitable[None]]
"""Searches problems, so many at once, and adds what it measured to the tally."""


async def compare(
    ours: Round,
    theirs: Round,
    problems: Sequence[LedgerProblem],
    levels: Sequence[int],
    rounds: int,
    seed: int,
    called: str,
) -> list[Facts]:
    """Both ways at each level, after a warm-up that is not counted; the other one's facts are ``called`` so.

    Errors: InputError for too few problems.
    """
    wanted = rounds * sum(SEARCHES_A_WORKER * level for level in levels) + max(levels)
    if wanted > len(problems):
        raise InputError(f"{rounds} rounds take {wanted} problems, there are {len(problems)}", "rounds")
    waiting = iter(problems)
    warm_up = [next(waiting) for _ in range(max(levels))]
    for search in (ours, theirs):
        await search(warm_up, max(levels), Tally())
    tallies = {level: (Tally(), Tally()) for level in levels}
    with tqdm(total=2 * rounds * len(levels), desc=called, unit="round") as bar:
        for number in range(rounds):
            for level in levels:
                chosen = [next(waiting) for _ in range(SEARCHES_A_WORKER * level)]
                turns = list(zip((ours, theirs), tallies[level], strict=True))
                for search, tally in turns if number % 2 else reversed(turns):
                    started = time.perf_counter()
                    await search(chosen, level, tally)
                    tally.rates.append(len(chosen) / (time.perf_counter() - started))
                    bar.update()
    return [level_facts(level, *tallies[level], seed, called) for level in levels]


def level_facts(level: int, ours: Tally, theirs: Tally, seed: int, called: str) -> Facts:
    """Both ways at one level of concurrency, and how they compare."""
    shares = [one / other for one, other in zip(ours.rates, theirs.rates, strict=True)]
    faster = bootstrap_mean(shares, seed)
    ahead = [int(right) - int(theirs.right[name]) for name, right in ours.right.items()]
    difference = bootstrap_mean(ahead, seed)
    own, baseline = ours.facts(), theirs.facts()
    alike = sum(equal(answer or "", theirs.answers[name] or "") for name, answer in ours.answers.items())
    return {
        "concurrency": level,
        "speedup": sum(shares) / len(shares),
        "speedup_ci_low": faster.low,
        "speedup_ci_high": faster.high,
        "p95_ratio": own["latency_p95_s"] / baseline["latency_p95_s"],
        "same_answers": alike / len(ours.answers),
        "accuracy": own["accuracy"],
        "difference": sum(ahead) / len(ahead),
        "difference_ci_low": difference.low,
        "difference_ci_high": difference.high,
        "ours": own,
        called: baseline,
    }
