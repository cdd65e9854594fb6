"""The command ``cos bench dashboards``."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer


def dashboards(
    seconds: Annotated[float, typer.Option(min=10, help="Seconds of mixed load. Half-way, an engine is killed.")] = 60,
    concurrency: Annotated[int, typer.Option(min=1, help="Number of searches at once.")] = 4,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Also draw the latency dashboard into this file.")
    ] = None,
    deploy: Annotated[
        Path | None, typer.Option(help="Folder with grafana/ and prometheus/ (default: this checkout's).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the problems and all samples.")] = 0,
    policy: Annotated[
        str, typer.Option(help="The policy: a checkpoint folder, a hub name, cos-tiny or scripted.")
    ] = "cos-tiny",
    prm: Annotated[
        str | None, typer.Option(help="The PRM: the same, or none (default: the one that belongs to the policy).")
    ] = None,
    json_only: Annotated[bool, typer.Option("--json", help="Print JSON only, no tables.")] = False,
) -> None:
    """Whether every panel, alert and recording rule has data: a server under load and in trouble, and a Prometheus."""
    from cos.benchmarks.boards import DEPLOY
    from cos.benchmarks.commands import run_dashboards
    from cos.benchmarks.dashboards import Plan
    from cos.benchmarks.quality import check_picture
    from cos.evaluation.in_process import prm_for

    check_picture(picture, "--picture")
    plan = Plan(
        policy=policy,
        prm=prm_for(policy, prm),
        deploy=deploy or DEPLOY,
        seconds=seconds,
        concurrency=concurrency,
        seed=seed,
    )
    asyncio.run(run_dashboards(plan, picture, json_only=json_only))
