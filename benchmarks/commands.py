"""What the commands do, once their options are read: run, show a table on stderr, end stdout with one JSON object."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import httpx
import typer

from cos.benchmarks import (
    barrier,
    cost,
    dashboards,
    format_costs,
    limit,
    metrics_cost,
    orchestrator,
    pool,
    serving,
    speculation,
)
from cos.benchmarks.grid import Grid, Workload, compare, grid_table, sweep
from cos.benchmarks.latency_picture import draw
from cos.benchmarks.peers.measure import Contest, Peer, compare_with_peers
from cos.benchmarks.quality import plot_quality
from cos.benchmarks.report import json_line
from cos.benchmarks.server_process import own_server
from cos.benchmarks.setting import Setting
from cos.benchmarks.tables import (
    show_barrier,
    show_comparison,
    show_cost,
    show_dashboards,
    show_format_costs,
    show_limit,
    show_metrics_cost,
    show_orchestrator,
    show_peers,
    show_serving,
    show_speculation,
    show_training,
)
from cos.checkpoints import LedgerProblem, heldout
from cos.engines.collector import spare_the_collector
from cos.evaluation.accuracy import choose
from cos.evaluation.in_process import open_models
from cos.evaluation.provenance import Facts, machine, provenance
from cos.search.errors import CosError
from cos.search.models import Models


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every measurement in process shares."""

    policy: str
    prm: str
    problems: int
    seed: int
    concurrency: int
    json_only: bool

    def chosen(self) -> list[LedgerProblem]:
        """The problems to search. Errors: InputError when there are not that many."""
        return choose(heldout(), self.problems, self.seed)

    def every(self) -> list[LedgerProblem]:
        """All problems there are, in the seed's order."""
        problems = heldout()
        return choose(problems, len(problems), self.seed)

    def provenance(self) -> Facts:
        """Where its numbers come from."""
        return provenance(self.policy, self.prm)


async def run_comparison(job: Job, ours: Setting, baseline: Setting | None) -> None:
    """One setting, and the baseline it is compared with if there is one."""
    problems = job.chosen()
    async with open_models(job.policy, job.prm) as engines:
        facts = await compare(_workload(job, engines.models, problems), ours, baseline)
    if not job.json_only:
        show_comparison(facts)
    _print({**facts, **job.provenance()})


async def run_quality(job: Job, grid: Grid, baseline: Setting | None, picture: Path | None) -> None:
    """Accuracy and cost of all settings, each against the baseline if there is one.

    A line of JSON for each as it comes, a Markdown table, and all of it again; drawn in ``picture`` as well.
    """
    problems = job.chosen()
    rows: list[Facts] = []
    async with open_models(job.policy, job.prm) as engines:
        async for row in sweep(_workload(job, engines.models, problems), grid.settings, baseline):
            rows.append(row)
            _print(row)
    if picture is not None:
        plot_quality(picture, rows)
    if not job.json_only:
        typer.echo(f"\n{grid_table(rows)}\n")
    _print({"rows": rows, "left_out": grid.left_out, **job.provenance()})


async def run_pool(job: Job, like: Setting, size: int) -> None:
    """Selection rules on one pool of chains."""
    problems = job.chosen()
    setting = replace(like, strategy="best_of_n", n=size, beam_width=None).fitted()
    async with open_models(job.policy, job.prm) as engines:
        scale = pool.scale_of(engines.models)
        pools = await pool.draw_pools(engines.models, problems, setting, job.seed, job.concurrency)
    facts = pool.pool_facts(pools, size, scale, job.seed)
    if not job.json_only:
        typer.echo(f"\n{pool.pool_table(facts)}\n")
    sampling = {"seed": job.seed, "temperature": like.temperature, "top_p": like.top_p}
    _print({**facts, **sampling, **job.provenance()})


async def run_cost(job: Job, setting: Setting, prm_format: str) -> None:
    """The PRM's bill."""
    problems = job.chosen()
    async with open_models(job.policy, job.prm, prm_format=prm_format) as engines:
        facts = await cost.measure(engines, problems, setting, job.seed, job.concurrency)
    if not job.json_only:
        show_cost(facts)
    _print({**facts, **job.provenance()})


async def run_format_costs(*, json_only: bool) -> None:
    """What each PRM format computes, counted without models."""
    facts = await format_costs.measure(format_costs.Sizes())
    if not json_only:
        show_format_costs(facts)
    _print({**facts, **machine()})


async def run_limit(job: Job, setting: Setting, levels: Sequence[int], rounds: int) -> None:
    """How near searches come to their engines' floor."""
    async with open_models(job.policy, job.prm) as engines:
        facts = await limit.measure(engines, job.every(), setting, levels, rounds, job.seed)
    if not job.json_only:
        show_limit(facts)
    _print({**facts, **job.provenance()})


async def run_barrier(job: Job, setting: Setting, levels: Sequence[int], rounds: int) -> None:
    """Ours beside one search at a time, level by level."""
    async with open_models(job.policy, job.prm) as engines:
        facts = await barrier.measure(engines, job.every(), setting, levels, rounds, job.seed)
    if not job.json_only:
        show_barrier(facts)
    _print({**facts, "seed": job.seed, **job.provenance()})


async def run_peers(job: Job, setting: Setting, peers: Sequence[Peer], levels: tuple[int, ...], rounds: int) -> None:
    """What others do on the same models, beside ours."""
    contest = Contest(
        policy=job.policy,
        prm=job.prm,
        setting=setting,
        problems=job.every(),
        levels=levels,
        rounds=rounds,
        seed=job.seed,
    )
    facts = await compare_with_peers(contest, peers)
    if not job.json_only:
        show_peers(facts)
    _print({**facts, **job.provenance()})


def run_orchestrator(levels: Sequence[int], strategy: str, n: int, rounds: int, *, json_only: bool) -> None:
    """What a search costs beside its engines, on the event loop that the server has."""
    import uvloop

    spare_the_collector()
    facts = uvloop.run(orchestrator.measure(levels, strategy, n, rounds))
    if not json_only:
        show_orchestrator(facts)
    _print({**facts, **machine()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The server to be measured: the one at ``url``, or one of our own with these models."""

    url: str | None
    api_key: str | None
    policy: str
    prm: str


async def run_serving(target: Target, load: serving.Load, setting: Setting, seed: int, *, json_only: bool) -> None:
    """Throughput and latency. Errors: CosError for a server that does not start or answers nothing."""
    requests = serving.bodies(heldout(), setting, seed)
    async with _client(target, max(load.levels)) as client:
        facts = await serving.measure(client, load, requests)
    if not json_only:
        show_serving(facts)
    _print({**setting.facts(), **facts, "seed": seed, "provenance": _where(target)})


async def run_metrics_cost(job: Job, setting: Setting, levels: Sequence[int], rounds: int) -> None:
    """What counting costs. Errors: as `run_serving`."""
    async with AsyncExitStack() as stack:
        clients: dict[str, httpx.AsyncClient] = {}
        for name, option in metrics_cost.OPTIONS.items():
            target = Target(url=None, api_key=None, policy=job.policy, prm=job.prm)
            clients[name] = await stack.enter_async_context(_client(target, max(levels) + 1, option))
        facts = await metrics_cost.measure(
            clients["on"], clients["off"], job.every(), setting, levels, rounds, job.seed
        )
    if not job.json_only:
        show_metrics_cost(facts)
    _print({**setting.facts(), **facts, **job.provenance()})


async def run_speculation(target: Target, problems: int, setting: Setting, seed: int, *, json_only: bool) -> None:
    """Speed with and without beginning ahead. Errors: as `run_serving`."""
    chosen = choose(heldout(), problems + speculation.WARM_UP, seed)
    async with _client(target, 1) as client:
        facts = await speculation.measure(client, chosen, setting, seed)
    if not json_only:
        show_speculation(facts)
    _print({**facts, **_where(target)})


async def run_dashboards(plan: dashboards.Plan, picture: Path | None, *, json_only: bool) -> None:
    """Panels, alerts and rules that have data. Errors: CosError where one has none and is not on the list of those that
    may."""
    async with dashboards.staged(plan) as stage:
        facts, timeline = await dashboards.measure(stage, plan, heldout(), partial(typer.echo, err=True))
        if not json_only:
            show_dashboards(facts)
        if picture is not None:
            draw(picture, await dashboards.drawn(stage, plan, timeline))
    _print({**facts, "seed": plan.seed, **provenance(plan.policy, plan.prm)})
    if facts["empty"]:
        raise CosError(f"no data, and no reason to have none: {'; '.join(facts['empty'])}")


def run_training(seed: int, *, json_only: bool, repetitions: int, batch: int, threads: int, compiled: bool) -> None:
    """Throughput of the pipeline's SFT over that of a hand-tuned loop."""
    from cos.benchmarks.training_speed import Load, measure

    load = Load(repetitions=repetitions, batch=batch, threads=threads, compiled=compiled)
    facts = measure(load, seed)
    if not json_only:
        show_training(facts)
    _print({**facts, **machine()})


@asynccontextmanager
async def _client(target: Target, connections: int, *options: str) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of the server to be measured; ``options``: of a server of our own."""
    headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    async with AsyncExitStack() as stack:
        url = target.url or await stack.enter_async_context(own_server(target.policy, target.prm, *options))
        client = httpx.AsyncClient(base_url=url, headers=headers, limits=httpx.Limits(max_connections=connections))
        yield await stack.enter_async_context(client)


def _where(target: Target) -> Facts:
    """Where numbers come from."""
    return {"url": target.url, **machine()} if target.url else provenance(target.policy, target.prm)


def _workload(job: Job, models: Models, problems: Sequence[LedgerProblem]) -> Workload:
    return Workload(models=models, problems=problems, seed=job.seed, concurrency=job.concurrency)


def _print(facts: Facts) -> None:
    typer.echo(json_line(facts))
