"""The ``cos`` command. Modules that load models, numbers or HTTP are imported by the command that needs them."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cos.search.extras import needs
from cos.search.scale import Aggregation
from cos.search.select import ScoreKind

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

EXIT_TROUBLE, EXIT_BAD_INPUT = 1, 2


@app.callback()
def cos() -> None:
    """Answers with a search behind them: questions about images, solved step by step under a process reward model."""


@app.command()
def solve(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="PNG, JPEG or WebP file.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What is asked about it.")],
    url: Annotated[str | None, typer.Option(help="A server (COS_URL); else one at port 8000, else in process.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="COS_API_KEY", help="Key of that server.")] = None,
    policy: Annotated[str | None, typer.Option(help="Search in process with this policy; cos-tiny by default.")] = None,
    prm: Annotated[str | None, typer.Option(help="Search in process with this PRM; none: no PRM.")] = None,
    strategy: Annotated[str, typer.Option(help="Search strategy.")] = "auto",
    n: Annotated[int | None, typer.Option("--n", min=1, help="Chains, or candidates of a level.")] = None,
    beam_width: Annotated[int | None, typer.Option(min=1, help="Chains that a beam keeps.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="Sampling temperature.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus sampling threshold.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Root of all sampling.")] = 0,
    score: Annotated[ScoreKind | None, typer.Option(help="What ranks chains; prm unless there is none.")] = None,
    aggregation: Annotated[Aggregation | None, typer.Option(help="How step scores make a chain's score.")] = None,
    choice: Annotated[list[str] | None, typer.Option(help="An option of a multiple-choice question.")] = None,
    json_only: Annotated[bool, typer.Option("--json", help="Print the reply's JSON only.")] = False,
    tree: Annotated[bool, typer.Option(help="Show the search tree.")] = True,
    picture: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Draw tree and answer there too.")] = None,
) -> None:
    """Solve one question about one image."""
    from cos.clients.solving import Ask, solve_and_show

    given = {
        "strategy": strategy,
        "n": n,
        "beam_width": beam_width,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "score": score,
        "aggregation": aggregation,
        "choices": choice or None,
    }
    ask = Ask(
        image_path=image,
        question=question,
        options={name: value for name, value in given.items() if value is not None},
        url=url,
        api_key=api_key,
        policy=policy,
        prm=prm,
    )
    asyncio.run(solve_and_show(ask, json_only=json_only, tree=tree, picture=picture))


PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""For commands that read their arguments by themselves, ``--help`` too."""


@app.command(add_help_option=False, context_settings=PASSED_ON)
def train(context: typer.Context) -> None:
    """Train a policy and a PRM, stage by stage."""
    with needs("train", "cos train"):
        from cos.training.cli import app as stages

        stages(context.args, prog_name="cos train")


@app.command("eval", add_help_option=False, context_settings=PASSED_ON)
def evaluate(context: typer.Context) -> None:
    """Measure answers: accuracy with its confidence interval, and cost."""
    with needs("serve", "cos eval"):
        from cos.benchmarks.cli import evaluations

        evaluations(context.args, prog_name="cos eval")


@app.command(add_help_option=False, context_settings=PASSED_ON)
def bench(context: typer.Context) -> None:
    """Measure the machinery: throughput, latency, what the PRM costs."""
    with needs("serve", "cos bench"):
        from cos.benchmarks.cli import benches

        benches(context.args, prog_name="cos bench")


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; exit status 2 for bad input, 1 for any other trouble."""
    from cos.clients.errors import BadRequest, CosClientError
    from cos.search.errors import CosError, InputError

    try:
        app(arguments, prog_name="cos")
    except (BadRequest, InputError) as error:
        _exit(error, EXIT_BAD_INPUT)
    except (CosClientError, CosError) as error:
        _exit(error, EXIT_TROUBLE)


def _exit(error: Exception, status: int) -> NoReturn:
    typer.echo(f"error: {error}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
