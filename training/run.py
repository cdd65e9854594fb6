"""``cos train STAGE --config recipe.yaml``: one stage of a recipe, or all of them in order."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from cos.search.errors import InputError
from cos.training.folder import DONE, StageContext
from cos.training.ranks import ALONE, give_back_memory, leave
from cos.training.recipe import Recipe, StageConfig, folder_name
from cos.training.recipe_file import load_recipe

app = typer.Typer(no_args_is_help=True)

Config = Annotated[str, typer.Option("--config", metavar="RECIPE", help="Recipe file, or the name of a shipped one.")]
SkipBad = Annotated[bool, typer.Option(help="Count bad JSONL lines instead of refusing the file.")]
Json = Annotated[bool, typer.Option("--json", help="Print the outcome as one JSON line only.")]


@app.callback()
def train() -> None:
    """Train a policy and a PRM, stage by stage; every stage goes on where it was stopped."""


def _command(kind: str, summary: str) -> Callable[..., None]:
    def command(
        stage: Annotated[str, typer.Argument(help="Its name, where a recipe has several of this kind.")] = kind,
        config: Config = "cos-tiny",
        skip_bad: SkipBad = False,
        json_only: Json = False,
    ) -> None:
        recipe = load_recipe(config)
        run_stage(recipe, recipe.find(stage), skip_bad=skip_bad, json_only=json_only)
        leave()

    command.__doc__ = summary
    return command


STAGES = {
    "tokens": "Add the step, answer and PRM tokens to a checkpoint.",
    "sight": "Teach the eyes of a small model to name digits (cos-tiny only).",
    "sft": "Fine-tune a policy to write chains of steps.",
    "rollout": "Sample a policy's own chains through the engine.",
    "label": "Label every step of chains: exactly, by Monte Carlo, by a judge.",
    "prm": "Train a process reward model on labelled chains.",
    "pairs": "Pair better chains with worse ones.",
    "dpo": "Teach a policy to prefer the better chain of pairs.",
    "rounds": "Iterative DPO: rollout, pairs and DPO, round by round.",
    "evaluate": "Measure a PRM and a policy on held-out problems.",
    "export": "Write a checkpoint in the number format it is served in.",
}
for _kind, _summary in STAGES.items():
    app.command(_kind)(_command(_kind, _summary))


EXTRA = ("accelerate", "datasets", "matplotlib", "peft", "trl")
"""What the extra ``train`` installs."""


@app.command("run")
def run_all(config: Config = "cos-tiny", skip_bad: SkipBad = False, json_only: Json = False) -> None:
    """Run all stages of a recipe in order; those that are done are left out."""
    recipe = load_recipe(config)
    for stage in recipe.stages:
        run_stage(recipe, stage, skip_bad=skip_bad, json_only=json_only)
    leave()


@app.command()
def traces(
    stored: Annotated[list[Path], typer.Option("--traces", help="Folder that cos-serve had as --trace-dir.")],
    out: Annotated[Path, typer.Option(help="Folder for chains.jsonl and pairs.jsonl.")] = Path("runs/traces"),
    gap: Annotated[float, typer.Option(min=0, help="Pair two chains whose scores differ by more.")] = 0.2,
    per_question: Annotated[int, typer.Option(min=1, help="Most pairs a question.")] = 1,
    skip_bad: SkipBad = False,
) -> None:
    """Turn stored traces of served searches into PRM rows and preference pairs."""
    from cos.training.traces import TracesConfig, run_traces

    config = TracesConfig(traces=tuple(map(str, stored)), gap=gap, per_question=per_question)
    run_traces(config, StageContext(folder=out, runs=out.parent, skip_bad=skip_bad))


@app.command()
def heldout(
    out: Annotated[Path, typer.Option(help="The archive to write.")] = Path("runs/heldout.zip"),
    problems: Annotated[int, typer.Option(min=1, help="How many ledgers.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="What they follow from.")] = 0,
    mnist: Annotated[Path, typer.Option(help="Folder of the digits.")] = Path("runs/mnist"),
) -> None:
    """Draw the held-out ledgers that ship, with the digits of MNIST's test writers."""
    from cos.training.heldout import write_heldout
    from cos.training.mnist import load

    write_heldout(out, load(mnist, "evaluation"), problems, seed)


@app.command()
def plot(
    run: Annotated[Path, typer.Argument(help="A stage's folder, such as runs/cos-tiny/sft.")],
    out: Annotated[Path | None, typer.Option(help="The picture; metrics.png in that folder unless given.")] = None,
) -> None:
    """Draw a stage's metrics.jsonl: losses, rates and what else it logged."""
    from cos.training.plot import plot_metrics

    typer.echo(str(plot_metrics(run, out or run / "metrics.png")))


def run_stage(recipe: Recipe, stage: StageConfig, *, skip_bad: bool = False, json_only: bool = False) -> None:
    """Runs one stage unless it is done; prints what came out. All processes of a run are to call it."""
    context = recipe.context(stage, skip_bad=skip_bad)
    name, ranks = folder_name(stage), context.ranks
    if ranks.first(lambda: context.is_done):
        if not json_only and ranks.is_first:
            typer.echo(f"{name}: done before ({context.folder / DONE})", err=True)
    else:
        logging.basicConfig(level=logging.WARNING)
        _set_threads(context.threads)
        run = _runner(stage)
        if stage.stage in BY_ALL_RANKS:
            run(stage, context)
            give_back_memory()
        else:
            ranks.first(lambda: run(stage, replace(context, ranks=ALONE)))
    if ranks.is_first:
        done = cast("dict[str, Any]", json.loads((context.folder / DONE).read_text(encoding="utf-8")))
        typer.echo(
            json.dumps({"stage": name, "folder": str(context.folder), **done["outcome"], "seconds": done["seconds"]})
        )


BY_ALL_RANKS = ("sight", "sft", "prm", "dpo", "rounds")
"""Stages that all processes of a run carry out together; of the others the first one does, and the rest wait."""


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _runner(stage: StageConfig) -> Callable[[Any, StageContext], None]:
    """A stage's function. What a stage needs is imported when it runs.

    Errors: InputError when a library of the extra ``train`` is not installed.
    """
    from importlib import import_module

    try:
        module = import_module(f"cos.training.{stage.stage}")
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        raise InputError(
            f"stage {stage.stage!r} needs {error.name}, which is not installed: pip install 'cos-serve[train]'", "stage"
        ) from error
    return getattr(module, f"run_{stage.stage}")
