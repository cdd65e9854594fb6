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

Words = Annotated[
    list[str], typer.Argument(metavar="[IMAGE] QUESTION", help="PNG, JPEG or WebP file, and the question about it.")
]
Images = Annotated[
    list[str] | None,
    typer.Option(metavar="IMAGE", help="A picture of the question; give it once for each of several pictures."),
]
Url = Annotated[
    str | None,
    typer.Option(help="The server to ask (COS_URL). Without it: one at port 8000, if there is one; else this process."),
]
ApiKey = Annotated[str | None, typer.Option(envvar="COS_API_KEY", help="The server's API key.")]
PrmUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="A vLLM server that runs the PRM, which is then not loaded here; --prm names it."),
]
PrmApiKey = Annotated[str | None, typer.Option(help="The key that the server at --prm-url asks for (COS_PRM_API_KEY).")]
FormatName = Annotated[
    str | None,
    typer.Option(help="How that PRM is asked for scores: a PRM format, or a YAML file (default: auto)."),
]
HowAggregated = Annotated[
    Aggregation | None, typer.Option(help="How step scores become a chain's score (default: the PRM format's own).")
]
PrmLora = Annotated[
    str | None,
    typer.Option(
        metavar="ADAPTER",
        help="Use the policy with this LoRA adapter as that PRM, in place of --prm: a folder that PEFT saved.",
    ),
]
JsonOnly = Annotated[bool, typer.Option("--json", help="Print only the reply, as JSON.")]


@app.callback()
def cos() -> None:
    """Ask questions about images. Each answer is searched for: a policy proposes steps, a process reward model (PRM)
    scores them, a strategy chooses."""


@app.command()
def solve(
    words: Words,
    image: Images = None,
    url: Url = None,
    api_key: ApiKey = None,
    policy: Annotated[
        str | None, typer.Option(help="Search in this process with this policy (default: cos-tiny).")
    ] = None,
    prm: Annotated[
        str | None,
        typer.Option(
            help="Search in this process with this PRM. judge: the policy judges its own steps. none: without a PRM."
        ),
    ] = None,
    prm_lora: PrmLora = None,
    policy_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="A vLLM server that runs the policy, which is then not loaded here; --policy names it."
        ),
    ] = None,
    policy_api_key: Annotated[
        str | None, typer.Option(help="The key that the server at --policy-url asks for (COS_POLICY_API_KEY).")
    ] = None,
    prm_url: PrmUrl = None,
    prm_api_key: PrmApiKey = None,
    grammar: Annotated[
        str | None, typer.Option(help="How that policy writes its steps: a step grammar by name (default: auto).")
    ] = None,
    prm_format: FormatName = None,
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
    aggregation: HowAggregated = None,
    choice: Annotated[
        list[str] | None, typer.Option(help="An option of a multiple-choice question; give it once for each option.")
    ] = None,
    history: Annotated[
        str | None,
        typer.Option(metavar="FILE.json", help="What was said before: a list of messages, in the form of OpenAI's."),
    ] = None,
    json_only: JsonOnly = False,
    tree: Annotated[bool, typer.Option(help="Show the search tree.")] = True,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Also draw the tree and the answer into this file.")
    ] = None,
) -> None:
    """Answer one question about a picture, about several, or about none, and show the search."""
    from cos.clients.history import read_history
    from cos.clients.model_servers import ModelServers
    from cos.clients.solving import Ask, solve_and_show

    images, question = _asked(words, image)
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
        image_paths=images,
        question=question,
        options={name: value for name, value in given.items() if value is not None},
        history=read_history(history) if history else (),
        url=url,
        api_key=api_key,
        policy=policy,
        prm=prm,
        prm_lora=prm_lora,
        servers=ModelServers(policy_url, policy_api_key, prm_url, prm_api_key),
        grammar=grammar,
        prm_format=prm_format,
    )
    asyncio.run(solve_and_show(ask, json_only=json_only, tree=tree, picture=picture))


@app.command()
def score(
    words: Words,
    image: Images = None,
    step: Annotated[
        list[str] | None, typer.Option(help="What a step says; give it once for each step, in order.")
    ] = None,
    answer: Annotated[str | None, typer.Option(help="The answer behind the steps.")] = None,
    text: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The whole chain as a text file, in place of steps and answer; - for stdin."),
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    prm: Annotated[
        str | None, typer.Option(help="Score in this process with this PRM (default: that of cos-tiny).")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="The policy that --prm-lora is an adapter over (default: the one that it names).")
    ] = None,
    prm_lora: PrmLora = None,
    prm_url: PrmUrl = None,
    prm_api_key: PrmApiKey = None,
    prm_format: FormatName = None,
    aggregation: HowAggregated = None,
    json_only: JsonOnly = False,
) -> None:
    """Score a chain that is written already: every step, and the first one that the PRM takes for wrong."""
    from cos.clients.model_servers import ModelServers
    from cos.clients.scoring import Chain, score_and_show

    images, question = _asked(words, image)
    chain = Chain(
        image_paths=images,
        question=question,
        steps=tuple(step or ()),
        answer=answer,
        text_path=text,
        aggregation=aggregation,
        url=url,
        api_key=api_key,
        prm=prm,
        policy=policy,
        prm_lora=prm_lora,
        servers=ModelServers(prm_url=prm_url, prm_api_key=prm_api_key),
        prm_format=prm_format,
    )
    asyncio.run(score_and_show(chain, json_only=json_only))


def _asked(words: list[str], image: list[str] | None) -> tuple[tuple[str, ...], str]:
    """The pictures and the question that a command's arguments are. Errors: BadParameter for more or less than that."""
    *shown, question = words
    if len(shown) > 1:
        raise typer.BadParameter(f"{len(words)} arguments; give several pictures by --image, and QUESTION in quotes")
    if not shown and not image and Path(question).is_file():
        raise typer.BadParameter(f"QUESTION is missing: {question} is a file; put the question behind it")
    return (*shown, *(image or ())), question


PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""For commands that read their arguments by themselves, ``--help`` too."""


@app.command(add_help_option=False, context_settings=PASSED_ON)
def train(context: typer.Context) -> None:
    """Train a policy and a PRM, stage by stage."""
    with needs("train", "cos train"):
        from cos.training.cli import app as stages

        stages(context.args, prog_name="cos train")


@app.command(add_help_option=False, context_settings=PASSED_ON)
def check(context: typer.Context) -> None:
    """Tell whether a policy and a PRM can be served together, before you serve them."""
    with needs("serve", "cos check"):
        from cos.server.checks.command import main as checks

        status = checks(context.args)
    raise typer.Exit(status)


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
