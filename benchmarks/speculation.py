"""What beginning ahead is worth: the same searches with and without it, one after the other on the same engines.

Every problem is searched both ways with the same seed, in alternating order and with empty caches, so that neither way
finds the other's prefixes. Answers and trees must be the same to the last token and score.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from cos.benchmarks.setting import Setting
from cos.checkpoints import LedgerProblem
from cos.search.run import solve
from cos.search.types import Result
from cos.training.accuracy import ask, root_seed
from cos.training.engines import Running
from cos.training.provenance import Facts
from cos.training.statistics import bootstrap_median_ratio

WARM_UP = 2
"""Problems that are searched before any counts."""


@dataclass(slots=True)
class Ways:
    """What was seen of both ways so far."""

    seconds: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    identical: int = 0
    searches: int = 0
    tokens: int = 0
    aborted: int = 0


async def measure(running: Running, problems: Sequence[LedgerProblem], setting: Setting, seed: int) -> Facts:
    """Both ways over all problems. Errors: those of a search."""
    ways = Ways()
    for index, problem in enumerate(tqdm(problems, desc=f"{setting.strategy}, both ways", unit="problem")):
        found: dict[bool, Result] = {}
        for speculate in (True, False) if index % 2 else (False, True):
            await forget(running)
            spec = setting.spec(root_seed(seed, problem.id), speculate=speculate)
            question, pair = ask(problem), running.pair
            started = time.perf_counter()
            found[speculate] = await solve(question, spec, pair.policy, pair.scorer, pair.grammar)
            if index >= WARM_UP:
                ways.seconds[speculate].append(time.perf_counter() - started)
        if index >= WARM_UP:
            ways.searches += 1
            ways.identical += same(found[True], found[False])
            ways.tokens += found[True].usage.tokens_generated
            ways.aborted += found[True].usage.tokens_aborted
    return facts_of(ways, setting, seed)


async def forget(running: Running) -> None:
    """Empties the caches of both engines."""
    await running.engines.policy.forget()
    if running.engines.prm is not None:
        await running.engines.prm.forget()


def same(one: Result, other: Result) -> bool:
    """Whether two searches came to the same answer by the same tree."""
    ends = [(result.chain, result.value, result.finish_reason, result.tree) for result in (one, other)]
    return ends[0] == ends[1]


def facts_of(ways: Ways, setting: Setting, seed: int) -> Facts:
    """Both ways as numbers."""
    import numpy as np

    with_it, without = ways.seconds[True], ways.seconds[False]
    ratio, interval = bootstrap_median_ratio(with_it, without, seed)
    return {
        "p50_ratio": ratio,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "identical": ways.identical == ways.searches,
        "identical_searches": ways.identical,
        "searches": ways.searches,
        "p50_s": float(np.median(with_it)),
        "p50_without_s": float(np.median(without)),
        "aborted_share": ways.aborted / max(1, ways.tokens),
        "seed": seed,
        **setting.facts(),
    }
