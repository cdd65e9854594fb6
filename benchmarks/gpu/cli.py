"""The command ``cos bench gpu``."""

from pathlib import Path
from typing import Annotated

import typer

LIMIT_S, DRY_RUN_S = 540.0, 1800.0
"""Limits of time: a machine with a GPU is paid for by the minute; two CPU cores take ten minutes for a dry run."""
MOST_S = 86_400.0
EXIT_TERMINATED = 143
"""As shells have it after SIGTERM."""


def gpu(
    pairs: Annotated[
        str | None,
        typer.Option(
            help="Pairs POLICY:PRM in their order, each tiny, small, 7b, 14b, 38b or scripted "
            "(default: tiny:tiny,7b:7b; with --dry-run tiny:tiny,small:small)."
        ),
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Make these measurements alone, separated by commas (default: all).")
    ] = None,
    limit_s: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=MOST_S,
            help="Seconds after which nothing more begins, and what runs is cut (default: 540; dry run: 1800).",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="FILE.json", help="Results, written anew after each measurement.")
    ] = Path("gpu.json"),
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where widened checkpoints are kept (default: in memory where it has room, and removed at the end)."
        ),
    ] = None,
    server_flags: Annotated[
        str, typer.Option(help='Flags for the server alone, in one string, as --server-flags="--max-num-seqs 512".')
    ] = "",
    ledgers: Annotated[
        int | None, typer.Option(min=1, help="Held-out ledgers on which trees are compared (default: 5; dry run: 1).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the problems and all samples.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="The same on CPU: small widths, float32, and hardly any searches.")
    ] = False,
    json_only: Annotated[bool, typer.Option("--json", help="Print JSON only, no tables.")] = False,
) -> None:
    """What searches cost on this machine's GPU, with models as large as 7b and 14b: a plan under a limit of time."""
    import asyncio
    from dataclasses import replace

    import uvloop

    from cos.benchmarks.gpu.pairs import (
        DRY_RUN_PAIRS,
        PAIRS,
        bytes_of,
        check_flags,
        check_machine,
        kept_in,
        parse_pairs,
    )
    from cos.benchmarks.gpu.plan import MEASUREMENTS, Plan, number_format, parse_measurements, run
    from cos.benchmarks.gpu.process import run_stoppable
    from cos.benchmarks.gpu.sizes import DRY_RUN, FULL
    from cos.benchmarks.gpu.tables import show
    from cos.benchmarks.report import json_line
    from cos.checkpoints import heldout
    from cos.evaluation.accuracy import choose
    from cos.search.errors import InputError

    chosen = parse_pairs(pairs or (DRY_RUN_PAIRS if dry_run else PAIRS))
    check_machine(chosen)
    check_flags(server_flags)
    wanted = MEASUREMENTS if only is None else parse_measurements(only)
    sizes = DRY_RUN if dry_run else FULL
    problems = heldout()
    if ledgers is not None and ledgers > len(problems):
        raise InputError(f"--ledgers {ledgers}: the held-out set has {len(problems)}; give that or less", "ledgers")
    with kept_in(folder, bytes_of(chosen, number_format(sizes))) as checkpoints:
        plan = Plan(
            pairs=chosen,
            wanted=wanted,
            sizes=replace(sizes, contract_problems=ledgers or sizes.contract_problems),
            problems=choose(problems, len(problems), seed),
            folder=checkpoints,
            out=out,
            limit_s=limit_s or (DRY_RUN_S if dry_run else LIMIT_S),
            server_flags=server_flags,
            seed=seed,
            is_dry_run=dry_run,
        )
        try:
            facts = uvloop.run(run_stoppable(run(plan)))
        except asyncio.CancelledError:
            raise typer.Exit(EXIT_TERMINATED) from None
    if not json_only:
        show(facts)
    typer.echo(json_line(facts))
