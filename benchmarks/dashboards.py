"""Whether the dashboards and rules have data: a real server under load and in trouble, a real Prometheus beside it.

The order: mixed load, in the midst of which an engine process is killed and the server started again; then what clients
can do wrong, limits, and a full queue; then an engine that is frozen. After each, every panel, alert and recording rule
that has had no data yet is asked again.
"""

import asyncio
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from cos.benchmarks.boards import MAY_BE_EMPTY, Coverage, Window, panels, rules
from cos.benchmarks.latency_picture import LatencyCurves, read
from cos.benchmarks.prometheus import Prometheus, scraping
from cos.benchmarks.serving import Body
from cos.benchmarks.supervisor import Outage, Supervised, supervised
from cos.benchmarks.troubles import load, mixed, troubles
from cos.checkpoints import LedgerProblem
from cos.evaluation.provenance import Facts

PLACES, QUEUE = 8, 4
PATIENCE_S = 3
"""Until an engine without a step counts as frozen."""
WINDOW = Window(rate_s=60, range_s=3600)
FROZEN_S = 30.0
"""Longest time until a server tells that its engine is frozen."""
SCRAPES_S = 4.0
"""In which Prometheus surely sees what has just happened, and evaluates its rules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is run."""

    policy: str
    prm: str
    deploy: Path
    """The folder with grafana/ and prometheus/."""
    seconds: float
    """Of mixed load, without the time that the server is down in the midst of it."""
    concurrency: int
    seed: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """When the load began and ended, and the outages within; Unix time, seconds."""

    began: float
    ended: float
    outages: Sequence[Outage]


@dataclass(frozen=True, slots=True)
class Stage:
    """A server and the Prometheus that watches it."""

    server: Supervised
    prometheus: Prometheus
    client: httpx.AsyncClient


@asynccontextmanager
async def staged(plan: Plan) -> AsyncGenerator[Stage]:
    """Both, started. Errors: CosError when one does not start."""
    with tempfile.TemporaryDirectory(prefix="cos-traces-") as traces:
        flags = {
            "policy": plan.policy,
            "prm": plan.prm,
            "max-concurrent-searches": PLACES,
            "max-queued-searches": QUEUE,
        }
        flags |= {"engine-patience-s": PATIENCE_S, "trace-dir": traces}
        command = ["cos.server.cli", *(f"--{name}={value}" for name, value in flags.items())]
        async with (
            supervised(command, "/ready", {}) as server,
            scraping(f"127.0.0.1:{server.port}", plan.deploy / "prometheus" / "prometheus.yml") as prometheus,
            httpx.AsyncClient(base_url=server.url) as client,
        ):
            yield Stage(server, prometheus, client)


async def measure(
    stage: Stage, plan: Plan, problems: Sequence[LedgerProblem], tell: Callable[[str], None]
) -> tuple[Facts, Timeline]:
    """Runs it all; ``tell`` hears how far it is. Errors: CosError for an expression that Prometheus does not take."""
    coverage = Coverage([*panels(plan.deploy, WINDOW), *rules(plan.deploy)])
    requests = mixed(problems, plan.seed)
    fired: set[str] = set()

    async def look() -> None:
        await asyncio.sleep(SCRAPES_S)
        await coverage.look(stage.prometheus)
        fired.update(alert["labels"]["alertname"] for alert in await stage.prometheus.alerts())

    ended_so, timeline = await _killed(stage, plan, requests, look, tell)
    await look()

    tell("troubles that clients make, limits, a full queue")
    await troubles(stage.client, requests, PLACES + QUEUE + 4)
    await look()

    tell("an engine process is stopped, and goes on")
    await stage.server.signal_engine(-1, signal.SIGSTOP)
    try:
        async with asyncio.timeout(FROZEN_S):
            while (await stage.client.get("/health")).is_success:
                await asyncio.sleep(0.2)
        await stage.client.post("/solve", json=next(requests), timeout=FROZEN_S)
        await look()
    finally:
        await stage.server.signal_engine(-1, signal.SIGCONT)
    return {**facts(coverage), "alerts_active": sorted(fired), "requests": dict(ended_so)}, timeline


async def _killed(
    stage: Stage,
    plan: Plan,
    requests: Iterator[Body],
    look: Callable[[], Awaitable[None]],
    tell: Callable[[str], None],
) -> tuple[Counter[str], Timeline]:
    """Load, in the midst of which an engine is killed: how requests ended, and when what happened."""
    tell(f"{plan.seconds:g} s of mixed load, {plan.concurrency} searches at once")
    began, over = time.time(), asyncio.Event()
    under_load = asyncio.create_task(load(stage.client, requests, plan.concurrency, over))
    try:
        await asyncio.sleep(plan.seconds / 2)
        await look()
        tell("an engine process is killed")
        await stage.server.signal_engine(0, signal.SIGKILL)
        await stage.server.restarted(1)
        tell("the server is ready again")
        await asyncio.sleep(plan.seconds / 2)
        over.set()
        ended_so = await under_load
    finally:
        under_load.cancel()
        await asyncio.wait([under_load])
    return ended_so, Timeline(began, time.time(), tuple(stage.server.outages))


async def drawn(stage: Stage, plan: Plan, timeline: Timeline) -> LatencyCurves:
    """The board Search latency over the time of the load. Errors: CosError where it has no data."""
    return await read(stage.prometheus, plan.deploy, WINDOW, timeline.began, timeline.ended, timeline.outages)


def facts(coverage: Coverage) -> Facts:
    """Counts of what had data, and what had none: allowed, with its reason, or not."""
    empty = [asked.name for asked in coverage.without_data]
    allowed = {name: MAY_BE_EMPTY[name] for name in empty if name in MAY_BE_EMPTY}
    shown, with_data = coverage.count("panel")
    counts: Facts = {"panels": shown, "with_data": with_data, "allowed_empty": len(allowed)}
    for kind in ("alert", "rule"):
        counts[f"{kind}s"], counts[f"{kind}s_with_data"] = coverage.count(kind)
    return {**counts, "allowed": allowed, "empty": [name for name in empty if name not in allowed]}
