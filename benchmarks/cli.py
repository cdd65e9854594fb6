"""The commands ``cos eval`` and ``cos bench``. The last line on stdout is one JSON object; tables go to stderr."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from cos.benchmarks.dashboards_cli import dashboards
from cos.benchmarks.gpu.cli import gpu
from cos.benchmarks.remote_cli import remote
from cos.benchmarks.reproduce.cli import reproduce
from cos.search.scale import Aggregation
from cos.search.select import ScoreKind

evaluations = typer.Typer(no_args_is_help=True)
benches = typer.Typer(no_args_is_help=True)

Policy = Annotated[str, typer.Option(help="The policy: a checkpoint folder, a hub name, cos-tiny or scripted.")]
Prm = Annotated[
    str | None, typer.Option(help="The PRM: the same, or none (default: the one that belongs to the policy).")
]
Strategy = Annotated[str, typer.Option(help="Search strategy.")]
Width = Annotated[
    int, typer.Option("--n", min=1, help="Number of whole chains, or of candidates in each level; greedy takes none.")
]
BeamWidth = Annotated[int | None, typer.Option(min=1, help="Number of chains that a beam keeps.")]
Temperature = Annotated[float, typer.Option(min=0, max=2, help="Sampling temperature.")]
TopP = Annotated[float, typer.Option(help="Nucleus sampling threshold.")]
Score = Annotated[
    ScoreKind | None,
    typer.Option(
        help="What ranks chains: the PRM's scores, or the policy's likelihood (default: prm if there is one)."
    ),
]
Aggregate = Annotated[
    Aggregation | None,
    typer.Option("--aggregation", help="How step scores become a chain's score (default: the PRM format's own)."),
]
Seed = Annotated[int, typer.Option(min=0, help="Chooses the problems and all samples.")]
Problems = Annotated[int, typer.Option(min=1, help="Number of held-out problems.")]
Levels = Annotated[str, typer.Option(help="Numbers of searches at once, in increasing order, as 1,4,16.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Number of searches at once.")]
Url = Annotated[str | None, typer.Option(envvar="COS_URL", help="A running server (default: one is started).")]
ApiKey = Annotated[str | None, typer.Option(envvar="COS_API_KEY", help="That server's API key.")]
JsonOnly = Annotated[bool, typer.Option("--json", help="Print JSON only, no tables.")]


@evaluations.callback()
def evaluation() -> None:
    """Measure answers: accuracy with its 95 % interval, and cost."""


@benches.callback()
def bench() -> None:
    """Measure the server and the search: throughput, latency, cost of the PRM."""


@evaluations.command()
def ledger(
    strategy: Strategy = "best_of_n",
    n: Width = 8,
    beam_width: BeamWidth = None,
    against: Annotated[
        str | None, typer.Option(help="Compare with another strategy on the same problems: NAME or NAME@N.")
    ] = None,
    pool: Annotated[
        int | None,
        typer.Option(min=1, help="Draw N chains for each problem once, and compare ways to select among them."),
    ] = None,
    problems: Problems = 500,
    seed: Seed = 0,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    score: Score = None,
    aggregation: Aggregate = None,
    policy: Policy = "cos-tiny",
    prm: Prm = None,
    concurrency: Concurrency = 16,
    json_only: JsonOnly = False,
) -> None:
    """Accuracy on the held-out ledgers, with a 95 % bootstrap interval over problems."""
    from cos.benchmarks.commands import Job, run_comparison, run_pool
    from cos.benchmarks.setting import Setting, parse_baseline
    from cos.evaluation.in_process import prm_for, score_kind
    from cos.search.errors import InputError

    if pool is not None and against is not None:
        raise InputError("--pool draws one pool for all selections; leave out --against", "pool")
    prm = prm_for(policy, prm)
    job = Job(policy=policy, prm=prm, problems=problems, seed=seed, concurrency=concurrency, json_only=json_only)
    ours = Setting(
        strategy=strategy,
        n=n,
        beam_width=beam_width,
        temperature=temperature,
        top_p=top_p,
        score=score_kind(score, prm),
        aggregation=aggregation,
    ).fitted()
    baseline = None if against is None else parse_baseline(against, ours)
    if pool is not None:
        asyncio.run(run_pool(job, ours, pool))
    else:
        asyncio.run(run_comparison(job, ours, baseline))


@benches.command()
def quality(
    strategies: Annotated[str | None, typer.Option(help="Strategies, separated by commas (default: all).")] = None,
    widths: Annotated[
        str, typer.Option(help="Values of n, separated by commas, in increasing order.")
    ] = "1,2,4,8,16,32",
    against: Annotated[str | None, typer.Option(help="Compare each with another strategy: NAME or NAME@N.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Also draw accuracy over tokens into this file; a few strategies are easiest to read.",
        ),
    ] = None,
    problems: Problems = 1000,
    seed: Seed = 0,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    score: Score = None,
    aggregation: Aggregate = None,
    policy: Policy = "cos-tiny",
    prm: Prm = None,
    concurrency: Concurrency = 16,
    json_only: JsonOnly = False,
) -> None:
    """Accuracy against tokens, PRM reads and latency: strategies over several widths on the same problems."""
    from cos.benchmarks.commands import Job, run_quality
    from cos.benchmarks.grid import grid_of
    from cos.benchmarks.quality import check_picture
    from cos.benchmarks.serving import parse_levels
    from cos.benchmarks.setting import Setting, parse_baseline
    from cos.evaluation.in_process import prm_for, score_kind
    from cos.search.strategies import menu

    check_picture(plot)
    prm = prm_for(policy, prm)
    job = Job(policy=policy, prm=prm, problems=problems, seed=seed, concurrency=concurrency, json_only=json_only)
    like = Setting(
        strategy="greedy",
        temperature=temperature,
        top_p=top_p,
        score=score_kind(score, prm),
        aggregation=aggregation,
    )
    names = list(menu()) if strategies is None else [name.strip() for name in strategies.split(",")]
    grid = grid_of(like, names, parse_levels(widths, "--widths"))
    for sentence in grid.left_out:
        typer.echo(sentence, err=True)
    baseline = None if against is None else parse_baseline(against, like)
    asyncio.run(run_quality(job, grid, baseline, plot))


@benches.command()
def cost(
    formats: Annotated[
        bool, typer.Option("--formats", help="Count it for each PRM format instead, without models.")
    ] = False,
    prm_format: Annotated[str, typer.Option(help="How the PRM is asked; see docs/models.md.")] = "auto",
    strategy: Strategy = "best_of_n",
    n: Width = 8,
    beam_width: BeamWidth = None,
    problems: Problems = 64,
    seed: Seed = 0,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    policy: Policy = "cos-tiny",
    prm: Prm = None,
    concurrency: Concurrency = 16,
    json_only: JsonOnly = False,
) -> None:
    """Tokens that both engines computed, by their own counters, compared with what the chains need."""
    from cos.benchmarks.commands import Job, run_cost, run_format_costs
    from cos.benchmarks.setting import Setting
    from cos.evaluation.in_process import prm_for

    if formats:
        asyncio.run(run_format_costs(json_only=json_only))
        return
    prm = prm_for(policy, prm, prm_format)
    job = Job(policy=policy, prm=prm, problems=problems, seed=seed, concurrency=concurrency, json_only=json_only)
    setting = Setting(strategy=strategy, n=n, beam_width=beam_width, temperature=temperature, top_p=top_p)
    asyncio.run(run_cost(job, setting.fitted(), prm_format))


@benches.command()
def serving(
    strategy: Strategy = "beam",
    n: Width = 8,
    beam_width: BeamWidth = None,
    concurrency: Levels = "1,4,16,64",
    requests: Annotated[
        int, typer.Option(min=1, help="Searches for each of these numbers; at least six for each worker and round.")
    ] = 64,
    rounds: Annotated[
        int, typer.Option(min=1, help="Parts they are sent in; the numbers of searches at once take turns.")
    ] = 2,
    against: Annotated[
        str | None, typer.Option(help="barrier: compare with one search at a time that waits for each level.")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="off,on", help="Compare two servers in turns, one with metrics and one without."),
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    seed: Seed = 0,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    score: Score = None,
    aggregation: Aggregate = None,
    policy: Policy = "cos-tiny",
    prm: Prm = None,
    json_only: JsonOnly = False,
) -> None:
    """Searches a second over HTTP, and their latency. With --against barrier in process, compared with waiting."""
    from cos.benchmarks.commands import Job, Target, run_barrier, run_metrics_cost, run_serving
    from cos.benchmarks.metrics_cost import check_ways
    from cos.benchmarks.serving import Load, parse_levels
    from cos.benchmarks.setting import Setting
    from cos.evaluation.in_process import prm_for, score_kind
    from cos.search.errors import InputError

    prm = prm_for(policy, prm)
    load = Load(levels=parse_levels(concurrency), requests=requests, rounds=rounds)
    setting = Setting(
        strategy=strategy,
        n=n,
        beam_width=beam_width,
        temperature=temperature,
        top_p=top_p,
        score=score_kind(score, prm),
        aggregation=aggregation,
    ).fitted()
    job = Job(policy=policy, prm=prm, problems=0, seed=seed, concurrency=1, json_only=json_only)
    if against is not None:
        if against != "barrier":
            raise InputError(f"--against {against}: there is only barrier", "against")
        asyncio.run(run_barrier(job, setting, load.levels, rounds))
        return
    if metrics is not None:
        check_ways(metrics)
        if url is not None:
            raise InputError("--metrics starts two servers of its own; leave --url out", "metrics")
        asyncio.run(run_metrics_cost(job, setting, load.levels, rounds))
        return
    target = Target(url=url, api_key=api_key, policy=policy, prm=prm)
    asyncio.run(run_serving(target, load, setting, seed, json_only=json_only))


@benches.command()
def limit(
    strategy: Strategy = "beam",
    n: Width = 8,
    beam_width: BeamWidth = None,
    concurrency: Levels = "1,16",
    rounds: Annotated[int, typer.Option(min=1, help="Parts; the numbers of searches at once take turns.")] = 5,
    seed: Seed = 0,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    policy: Policy = "cos-tiny",
    prm: Prm = None,
    json_only: JsonOnly = False,
) -> None:
    """Time of searches, compared with the time of the same requests when nothing waits for anything."""
    from cos.benchmarks.commands import Job, run_limit
    from cos.benchmarks.serving import parse_levels
    from cos.benchmarks.setting import Setting
    from cos.evaluation.in_process import prm_for

    prm, levels = prm_for(policy, prm), parse_levels(concurrency)
    job = Job(policy=policy, prm=prm, problems=0, seed=seed, concurrency=1, json_only=json_only)
    setting = Setting(strategy=strategy, n=n, beam_width=beam_width, temperature=temperature, top_p=top_p).fitted()
    asyncio.run(run_limit(job, setting, levels, rounds))


@benches.command()
def peers(
    against: Annotated[
        str, typer.Option("--peers", help="What to compare with, separated by commas.")
    ] = "its_hub,search-and-learn,ThinkBooster",
    n: Width = 8,
    concurrency: Levels = "1,16",
    rounds: Annotated[int, typer.Option(min=1, help="Parts; both sides take turns.")] = 2,
    seed: Seed = 0,
    temperature: Temperature = 1.0,
    policy: Policy = "cos-tiny",
    prm: Prm = None,
    json_only: JsonOnly = False,
) -> None:
    """Compare with others on the same models: its_hub over HTTP, published algorithms in process."""
    from cos.benchmarks.commands import Job, run_peers
    from cos.benchmarks.peers.measure import parse_peers
    from cos.benchmarks.serving import parse_levels
    from cos.benchmarks.setting import Setting
    from cos.evaluation.in_process import prm_for

    prm, levels, names = prm_for(policy, prm), parse_levels(concurrency), parse_peers(against)
    job = Job(policy=policy, prm=prm, problems=0, seed=seed, concurrency=1, json_only=json_only)
    setting = Setting(strategy="best_of_n", n=n, temperature=temperature).fitted()
    asyncio.run(run_peers(job, setting, names, levels, rounds))


@benches.command()
def speculation(
    strategy: Strategy = "beam",
    n: Width = 8,
    beam_width: BeamWidth = None,
    problems: Problems = 100,
    seed: Seed = 0,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    url: Url = None,
    api_key: ApiKey = None,
    policy: Policy = "cos-tiny",
    prm: Prm = None,
    json_only: JsonOnly = False,
) -> None:
    """Latency over HTTP with and without beginning ahead, and whether both give the same tree."""
    from cos.benchmarks.commands import Target, run_speculation
    from cos.benchmarks.setting import Setting
    from cos.evaluation.in_process import prm_for

    target = Target(url=url, api_key=api_key, policy=policy, prm=prm_for(policy, prm))
    setting = Setting(strategy=strategy, n=n, beam_width=beam_width, temperature=temperature, top_p=top_p).fitted()
    asyncio.run(run_speculation(target, problems, setting, seed, json_only=json_only))


@benches.command()
def orchestrator(
    strategy: Strategy = "beam",
    n: Width = 8,
    concurrency: Levels = "1,100,2000",
    rounds: Annotated[int, typer.Option(min=1, help="How often each number is measured; the best counts.")] = 3,
    json_only: JsonOnly = False,
) -> None:
    """Candidate steps a second over scripted engines that answer at once, and memory of a running search."""
    from cos.benchmarks.commands import run_orchestrator
    from cos.benchmarks.serving import parse_levels

    run_orchestrator(parse_levels(concurrency), strategy, n, rounds, json_only=json_only)


@benches.command()
def training(
    repetitions: Annotated[int, typer.Option(min=2, help="Number of rounds of four batches.")] = 10,
    batch: Annotated[int, typer.Option(min=1, help="Chains in each batch.")] = 32,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each side.")] = 2,
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Compile both sides, as the recipe does.")
    ] = True,
    seed: Seed = 0,
    json_only: JsonOnly = False,
) -> None:
    """Tokens a second of SFT, compared with a loop written by hand for the same model and batches."""
    from cos.benchmarks.commands import run_training

    run_training(seed, json_only=json_only, repetitions=repetitions, batch=batch, threads=threads, compiled=compiled)


for command in (dashboards, remote, reproduce, gpu):
    benches.command()(command)
