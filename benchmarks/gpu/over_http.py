"""Measurements on a server that is asked over HTTP."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType

import httpx

from cos.benchmarks import serving, speculation
from cos.benchmarks.gpu.sizes import Sizes
from cos.benchmarks.setting import Setting
from cos.checkpoints import LedgerProblem
from cos.evaluation.provenance import Facts

STRATEGIES = ("greedy", "auto", "best_of_n", "beam")
"""What is asked for, each at every number of searches at once."""
AHEAD = ("auto", "beam")
"""What begins ahead."""

Work = Callable[[httpx.AsyncClient, Sequence[LedgerProblem], Sizes, int], Awaitable[Facts]]
"""A measurement. The number is the seed. Errors: CosError where searches fail."""


async def measure_serving(
    client: httpx.AsyncClient, problems: Sequence[LedgerProblem], sizes: Sizes, seed: int
) -> Facts:
    """Searches a second, latencies and tokens a second of both models, by strategy and searches at once."""
    load = serving.Load(levels=sizes.levels, requests=sizes.requests, rounds=1, a_worker=sizes.a_worker)
    found: Facts = {}
    for number, strategy in enumerate(STRATEGIES):
        setting = Setting(strategy=strategy, n=sizes.n).fitted()
        # Each strategy has seeds of its own, so that none finds in a cache what another has written.
        found[strategy] = await serving.measure(client, load, serving.bodies(problems, setting, seed + number))
    return found


async def measure_ahead(client: httpx.AsyncClient, problems: Sequence[LedgerProblem], sizes: Sizes, seed: int) -> Facts:
    """Latency of one search at a time with and without beginning ahead, and whether the trees are the same."""
    chosen = problems[: sizes.ahead_problems + speculation.WARM_UP]
    found: Facts = {}
    for strategy in AHEAD:
        setting = Setting(strategy=strategy, n=sizes.n).fitted()
        found[strategy] = await speculation.measure(client, chosen, setting, seed)
    return found


WORK: Mapping[str, Work] = MappingProxyType({"serving": measure_serving, "ahead": measure_ahead})
MEASUREMENTS = tuple(WORK)
