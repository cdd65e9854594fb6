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
    """Ask questions about images. Each answer is searched for: a policy proposes steps, a process reward model (PRM)
    scores them, a strategy chooses."""


@app.command()
def solve(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="PNG, JPEG or WebP file.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question about it.")],
    url: Annotated[
        str | None,
        typer.Option(
            help="The server to ask (COS_URL). Without it: one at port 8000, if there is one; else this process."
        ),
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="COS_API_KEY", help="The server's API key.")] = None,
    policy: Annotated[
        str | None, typer.Option(help="Search in this process with this policy (default: cos-tiny).")
    ] = None,
    prm: Annotated[str | None, typer.Option(help="Search in this process with this PRM. none: without a PRM.")] = None,
    grammar: Annotated[
        str | None, typer.Option(help="How that policy writes its steps: a step grammar by name (default: auto).")
    ] = None,
    prm_format: Annotated[
        str | None, typer.Option(help="How that PRM is asked for scores: a PRM format by name (default: auto).")
    ] = None,
    strategy: Annotated[str, typer.Option(help="Search strategy, see docs/strategies.md.")] = "auto",
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="Number of whole chains, or of candidates in each level.")
    ] = None,
    beam_width: Annotated[int | None, typer.Option(min=1, help="Number of chains that a beam keeps.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="Sampling temperature, 0 to 2.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus sampling threshold, above 0 up to 1.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same search.")] = 0,
    score: Annotated[
        ScoreKind | None,
        typer.Option(
            help="What ranks chains: the PRM's scores, or the policy's likelihood (default: prm if there is one)."
        ),
    ] = None,
    aggregation: Annotated[
        Aggregation | None, typer.Option(help="How step scores become a chain's score (default: the PRM format's own).")
    ] = None,
    choice: Annotated[
        list[str] | None, typer.Option(help="An option of a multiple-choice question; give it once for each option.")
    ] = None,
    json_only: Annotated[bool, typer.Option("--json", help="Print only the reply, as JSON.")] = False,
    tree: Annotated[bool, typer.Option(help="Show the search tree.")] = True,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Also draw the tree and the answer into this file.")
    ] = None,
) -> None:
    """Answer one question about one image, and show the search."""
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
        grammar=grammar,
        prm_format=prm_format,
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
    """Measure answers: accuracy with its 95 % interval, and cost."""
    with needs("serve", "cos eval"):
        from cos.benchmarks.cli import evaluations

        evaluations(context.args, prog_name="cos eval")


@app.command(add_help_option=False, context_settings=PASSED_ON)
def bench(context: typer.Context) -> None:
    """Measure the server and the search: throughput, latency, cost of the PRM."""
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
