"""What counting costs: searches a second of two servers that differ in --metrics alone, in turns, over HTTP.

Both search the same problems with the same seeds, each with engines and caches of its own, so that they find the same
and do the same work. While the one that counts is measured it is scraped, as Prometheus would.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from cos.benchmarks.limit import at_once
from cos.benchmarks.serving import TIMEOUT_S, body_of
from cos.benchmarks.setting import Setting
from cos.benchmarks.side_by_side import Tally, compare
from cos.checkpoints import LedgerProblem
from cos.evaluation.accuracy import root_seed
from cos.evaluation.provenance import Facts
from cos.search.errors import CosError, InputError

SCRAPE_S = 5.0
"""From one scrape to the next."""
BOTH = ("on", "off")
OPTIONS = {"on": "--metrics", "off": "--no-metrics"}


def check_ways(text: str) -> None:
    """Errors: InputError for anything but both ways."""
    if sorted(part.strip() for part in text.split(",")) != sorted(BOTH):
        raise InputError(f"--metrics {text}: both are measured; write off,on", "metrics")


@dataclass(frozen=True, slots=True)
class OverHttp:
    """Searches by one server."""

    client: httpx.AsyncClient
    setting: Setting
    seed: int
    is_scraped: bool
    parameters: dict[str, Any] = field(default_factory=dict[str, Any], compare=False)
    """All that was in force, as replies have it."""

    async def __call__(self, problems: Sequence[LedgerProblem], concurrency: int, tally: Tally) -> None:
        """A round of `cos.benchmarks.side_by_side`. Errors: CosError for a search that fails."""

        async def search(problem: LedgerProblem) -> None:
            started = time.perf_counter()
            body = body_of(problem, self.setting, root_seed(self.seed, problem.id))
            response = await self.client.post("/solve", json=body, timeout=TIMEOUT_S)
            if not response.is_success:
                raise CosError(f"the server answered {response.status_code}: {response.text[:200]}")
            reply = response.json()
            self.parameters.update(reply["parameters"])
            tally.add(problem, reply["answer"], time.perf_counter() - started, reply["usage"]["tokens_generated"])

        async with self._scraped():
            try:
                await at_once([lambda problem=problem: search(problem) for problem in problems], concurrency)
            except* CosError as failures:
                raise failures.exceptions[0] from None

    @asynccontextmanager
    async def _scraped(self) -> AsyncGenerator[None]:
        if not self.is_scraped:
            yield
            return
        scraping = asyncio.create_task(self._scrape())
        try:
            yield
        finally:
            scraping.cancel()
            await asyncio.gather(scraping, return_exceptions=True)

    async def _scrape(self) -> None:
        while True:
            await self.client.get("/metrics", timeout=TIMEOUT_S)
            await asyncio.sleep(SCRAPE_S)


async def measure(
    on: httpx.AsyncClient,
    off: httpx.AsyncClient,
    problems: Sequence[LedgerProblem],
    setting: Setting,
    levels: Sequence[int],
    rounds: int,
    seed: int,
) -> Facts:
    """Both servers at each level of concurrency, round by round. Errors: CosError for a search that fails, or a server
    that does not do what it was told; InputError for too few problems."""
    for name, client, status in (("on", on, 200), ("off", off, 404)):
        if (found := (await client.get("/metrics")).status_code) != status:
            raise CosError(f"the server with {OPTIONS[name]} answered /metrics with {found} and not with {status}")
    ways = OverHttp(on, setting, seed, is_scraped=True), OverHttp(off, setting, seed, is_scraped=False)
    results = [_renamed(row) for row in await compare(*ways, problems, levels, rounds, seed, "off")]
    keys = ("ratio", "ratio_ci_low", "ratio_ci_high", "p95_ratio", "same_answers")
    facts = {key: results[-1][key] for key in keys}
    in_force = {"aggregation": ways[0].parameters["aggregation"]}
    return {"results": results, **facts, **in_force, "rounds": rounds, "scrape_s": SCRAPE_S}


def _renamed(row: Facts) -> Facts:
    """A level's facts, as a ratio of searches a second: with metrics over without."""
    return {
        "concurrency": row["concurrency"],
        "ratio": row["speedup"],
        "ratio_ci_low": row["speedup_ci_low"],
        "ratio_ci_high": row["speedup_ci_high"],
        "p95_ratio": row["p95_ratio"],
        "same_answers": row["same_answers"],
        "on": row["ours"],
        "off": row["off"],
    }
