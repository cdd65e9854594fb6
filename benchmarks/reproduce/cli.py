"""The command ``cos bench reproduce``."""

import asyncio
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer


def reproduce(
    policy: Annotated[str, typer.Option(help="Policy that searches: a checkpoint folder, cos-tiny or scripted.")] = (
        "cos-tiny"
    ),
    prm: Annotated[str | None, typer.Option(help="Its PRM; the policy's own unless given.")] = None,
    rounds: Annotated[
        str | None, typer.Option(metavar="SFT,DPO1,...", help="The SFT policy and its rounds of DPO; NAME=DIR or DIR.")
    ] = None,
    rewards: Annotated[
        str | None,
        typer.Option(metavar="NAME=DIR,...", help="One round of DPO on pairs by prm, answer, outcome."),
    ] = None,
    prms: Annotated[
        str | None, typer.Option(metavar="NAME=DIR,...", help="PRMs by the source of their labels: exact=DIR,...")
    ] = None,
    evaluation: Annotated[Path | None, typer.Option(help="evaluation.json of `cos train evaluate`.")] = None,
    labels: Annotated[Path | None, typer.Option(help="done.json of the stage `label`.")] = None,
    remarks: Annotated[Path | None, typer.Option(help="Markdown to stand in the report, below its findings.")] = None,
    only: Annotated[str | None, typer.Option(metavar="PART,...", help="Measure these parts, take over others.")] = None,
    problems: Annotated[int, typer.Option(min=2, help="How many held-out problems.")] = 1000,
    pool: Annotated[int, typer.Option(min=1, max=64, help="Chains a problem in the pool.")] = 32,
    samples: Annotated[int, typer.Option(min=1, max=64, help="Chains a problem by which policies are compared.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Picks the problems; the root of all sampling.")] = 0,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="Sampling temperature.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling threshold.")] = 1.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Problems at once; more of them for narrow searches.")] = 16,
    report: Annotated[Path, typer.Option(help="Markdown file; plots go into a folder of its name beside it.")] = (
        Path("docs/reproduce.md")
    ),
    work: Annotated[Path, typer.Option(help="Folder of measurements; an interrupted run goes on from it.")] = (
        Path("runs/reproduce")
    ),
    json_only: Annotated[bool, typer.Option("--json", help="Only JSON.")] = False,
) -> None:
    """The paper in miniature: one report of its findings, measured anew on held-out ledgers."""
    from cos.benchmarks.reproduce.measures import Bench
    from cos.benchmarks.reproduce.policies import REWARDS
    from cos.benchmarks.reproduce.run import Inputs, parse_named, parse_parts, parse_rounds, run_reproduce
    from cos.benchmarks.setting import Setting
    from cos.checkpoints import heldout
    from cos.evaluation.accuracy import choose
    from cos.evaluation.in_process import prm_for

    # Sampling that cannot be used is known before an engine starts.
    Setting(strategy="best_of_n", n=pool, temperature=temperature, top_p=top_p).fitted()
    inputs = Inputs(
        policy=policy,
        prm=prm_for(policy, prm),
        rounds=parse_rounds(rounds),
        rewards=parse_named(rewards, "rewards", tuple(REWARDS)),
        prms=parse_named(prms, "prms"),
        evaluation=evaluation,
        labels=labels,
        remarks=remarks,
        pool=pool,
        samples=samples,
        only=parse_parts(only),
        report=report,
        command=shlex.join(["cos", *sys.argv[1:]]),
    )
    bench = Bench(
        work=work,
        problems=choose(heldout(), problems, seed),
        seed=seed,
        concurrency=concurrency,
        temperature=temperature,
        top_p=top_p,
    )
    asyncio.run(run_reproduce(inputs, bench, json_only=json_only))
