"""The command ``cos bench remote``."""

from typing import Annotated

import typer


def remote(
    problems: Annotated[
        int, typer.Option(min=1, help="Number of held-out problems that are searched one after the other.")
    ] = 40,
    strategy: Annotated[str, typer.Option(help="Search strategy of the sampled searches.")] = "beam",
    n: Annotated[int, typer.Option(min=1, help="Number of candidates in each level, or of whole chains.")] = 8,
    concurrency: Annotated[int, typer.Option(min=1, help="Searches at once while the time counts.")] = 16,
    rounds: Annotated[
        int, typer.Option(min=1, help="How often the time is taken, each way with the same further problems.")
    ] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the problems and all samples.")] = 0,
    json_only: Annotated[bool, typer.Option("--json", help="Print JSON only, no tables.")] = False,
) -> None:
    """The embedded pair on two vLLM servers of this machine against the same in process: answers and searches/s."""
    import uvloop
    from rich.console import Console

    from cos.benchmarks.remote import measure
    from cos.benchmarks.report import json_line
    from cos.benchmarks.setting import Setting
    from cos.checkpoints import heldout
    from cos.evaluation.accuracy import choose
    from cos.evaluation.provenance import machine

    every = heldout()
    chosen, fitted = choose(every, len(every), seed), Setting(strategy=strategy, n=n).fitted()
    facts = uvloop.run(measure(chosen, fitted, problems, rounds, concurrency, seed))
    if not json_only:
        Console(stderr=True).print(
            f"Of {facts['searches']} searches over HTTP {facts['same_answers_greedy']} greedy and "
            f"{facts['same_answers_sampled']} sampled ones have the answer of the one in process. "
            f"{facts['searches_per_s_remote']:.2f} searches/s over HTTP, {facts['searches_per_s_in_process']:.2f} in "
            f"process: {facts['throughput_ratio']:.2f} times (95 % interval {facts['ci_low']:.2f} to "
            f"{facts['ci_high']:.2f})"
        )
    typer.echo(json_line({**facts, **machine()}))
