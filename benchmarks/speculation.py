"""Speed with and without beginning ahead: the same searches, one after the other, on one server with its own
defaults, over HTTP.

Every problem is searched three times with the same seed. The first time does not count: after it both ways find the
same in the engines' caches. The other two are with it and without, in alternating order. Trees must be the same to the
last token and score.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from tqdm import tqdm

from cos.benchmarks.serving import TIMEOUT_S, Body, body_of
from cos.benchmarks.setting import Setting
from cos.checkpoints import LedgerProblem
from cos.evaluation.accuracy import root_seed
from cos.evaluation.provenance import Facts
from cos.evaluation.statistics import bootstrap_ratio
from cos.search.errors import CosError

WARM_UP = 2
"""Problems that are searched before any counts."""


@dataclass(slots=True)
class Ways:
    """What was seen of both ways so far."""

    seconds: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    identical: int = 0
    searches: int = 0
    candidates: int = 0
    begun: int = 0
    tokens: int = 0
    aborted: int = 0
    aggregation: str | None = None
    """That was in force, as replies have it."""


async def measure(client: httpx.AsyncClient, problems: Sequence[LedgerProblem], setting: Setting, seed: int) -> Facts:
    """Both ways over all problems. Errors: CosError for a search that fails."""
    ways = Ways()
    for index, problem in enumerate(tqdm(problems, desc=f"{setting.strategy}, both ways", unit="problem")):
        body = {**body_of(problem, setting, root_seed(seed, problem.id)), "return_tree": True}
        await _solve(client, body)
        found: dict[bool, Facts] = {}
        for speculate in (True, False) if index % 2 else (False, True):
            started = time.perf_counter()
            found[speculate] = await _solve(client, {**body, "speculate": speculate})
            if index >= WARM_UP:
                ways.seconds[speculate].append(time.perf_counter() - started)
        if index >= WARM_UP:
            _count(ways, found[True], same=outcome(found[True]) == outcome(found[False]))
    return facts_of(ways, setting, seed)


def outcome(reply: Facts) -> tuple[Any, ...]:
    """What two replies must have in common."""
    return tuple(reply[name] for name in ("answer", "finish_reason", "chain_score", "steps", "tree"))


def facts_of(ways: Ways, setting: Setting, seed: int) -> Facts:
    """Both ways as numbers."""
    import numpy as np

    with_it, without = ways.seconds[True], ways.seconds[False]
    half, half_interval = bootstrap_ratio(with_it, without, seed)
    late, late_interval = bootstrap_ratio(with_it, without, seed, 95)
    return {
        "p50_ratio": half,
        "ci_low": half_interval.low,
        "ci_high": half_interval.high,
        "p95_ratio": late,
        "p95_ci_low": late_interval.low,
        "p95_ci_high": late_interval.high,
        "begun_share": ways.begun / max(1, ways.candidates),
        "identical": ways.identical == ways.searches,
        "identical_searches": ways.identical,
        "searches": ways.searches,
        "p50_s": float(np.median(with_it)),
        "p50_without_s": float(np.median(without)),
        "p95_s": float(np.percentile(with_it, 95)),
        "p95_without_s": float(np.percentile(without, 95)),
        "aborted_share": ways.aborted / max(1, ways.tokens),
        "seed": seed,
        **setting.facts(),
        "aggregation": ways.aggregation,
    }


def _count(ways: Ways, reply: Facts, *, same: bool) -> None:
    usage = reply["usage"]
    ways.aggregation = reply["parameters"]["aggregation"]
    ways.searches += 1
    ways.identical += same
    ways.candidates += usage["candidates"]
    ways.begun += usage["candidates_begun_ahead"]
    ways.tokens += usage["tokens_generated"]
    ways.aborted += usage["tokens_aborted"]


async def _solve(client: httpx.AsyncClient, body: Body) -> Facts:
    response = await client.post("/solve", json=body, timeout=TIMEOUT_S)
    if not response.is_success:
        raise CosError(f"the server answered {response.status_code}: {response.text[:200]}")
    return response.json()
