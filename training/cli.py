"""``cos train STAGE --config recipe.yaml``: one stage of a recipe, or all of them in order."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from cos.search.errors import InputError
from cos.training.config.packages import check_packages
from cos.training.config.recipe import Recipe, StageConfig, folder_name
from cos.training.config.recipe_file import load_recipe
from cos.training.config.references import check_references
from cos.training.runs import digest
from cos.training.runs.folder import DONE, StageContext
from cos.training.runs.ranks import ALONE, give_back_memory, leave

app = typer.Typer(no_args_is_help=True)

Config = Annotated[str, typer.Option("--config", metavar="RECIPE", help="Recipe file, or the name of a shipped one.")]
SkipBad = Annotated[bool, typer.Option(help="Count bad JSONL lines instead of refusing the file.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin the stage again; what it has made is removed.")]
Set = Annotated[list[str], typer.Option("--set", metavar="STAGE.KEY=VALUE", help="Take this for a key of the recipe.")]
Json = Annotated[bool, typer.Option("--json", help="Print the outcome as one JSON line only.")]


@app.callback()
def train() -> None:
    """Train a policy and a PRM, stage by stage; every stage goes on where it was stopped."""


def _command(kind: str, summary: str) -> Callable[..., None]:
    def command(
        stage: Annotated[str, typer.Argument(help="Its name, where a recipe has several of this kind.")] = kind,
        config: Config = "cos-tiny",
        overrides: Set = [],  # noqa: B006 - typer copies it
        fresh: Fresh = False,
        skip_bad: SkipBad = False,
        json_only: Json = False,
    ) -> None:
        recipe = load_recipe(config, overrides)
        found = recipe.find(stage)
        how = RunOptions(
            fresh="always" if fresh else "never", overrides=tuple(overrides), skip_bad=skip_bad, json_only=json_only
        )
        check_references(recipe, [found], in_order=False, anew=fresh)
        run_stage(recipe, found, how)
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
    "widen": "Make a checkpoint as large as another model, with the same answers.",
}
for _kind, _summary in STAGES.items():
    app.command(_kind)(_command(_kind, _summary))


EXTRA = ("accelerate", "datasets", "matplotlib", "peft", "trl")
"""What the extra ``train`` installs."""


@app.command("run")
def run_all(
    config: Config = "cos-tiny",
    overrides: Set = [],  # noqa: B006 - typer copies it
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin those stages again whose keys or inputs have changed.")
    ] = False,
    skip_bad: SkipBad = False,
    json_only: Json = False,
) -> None:
    """Run all stages of a recipe in order; those that are done are left out."""
    recipe = load_recipe(config, overrides)
    check_references(recipe, recipe.stages, in_order=True)
    check_packages(recipe.stages)
    how = RunOptions(
        fresh="changed" if fresh else "never", overrides=tuple(overrides), skip_bad=skip_bad, json_only=json_only
    )
    for stage in recipe.stages:
        run_stage(recipe, stage, how)
    leave()


@app.command("check")
def check(
    config: Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe file, or the name of a shipped one.")],
    overrides: Set = [],  # noqa: B006 - typer copies it
    step: Annotated[
        bool, typer.Option("--step", help="Also train one step of each stage whose checkpoint and data are here.")
    ] = False,
    json_only: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Look through a recipe before it runs: references, rows, lengths, pictures, memory. Exit code 2 with faults."""
    from cos.training.config.check import check_recipe, table

    logging.basicConfig(level=logging.WARNING)
    report = check_recipe(load_recipe(config, overrides), step=step)
    typer.echo(json.dumps(asdict(report), ensure_ascii=False, default=str) if json_only else table(report))
    if report.faults:
        raise typer.Exit(2)


@app.command("keys")
def print_keys(
    stage: Annotated[str, typer.Argument(help="A stage; all of them unless given.")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print them as Markdown.")] = False,
) -> None:
    """Print the keys of a recipe: their defaults, where these come from, what each means."""
    from cos.training.config.key_table import as_markdown, key_tables, print_tables, tables_of

    tables = tables_of(stage) if stage else key_tables()
    if markdown:
        typer.echo(as_markdown(tables), nl=False)
    else:
        print_tables(tables)


@app.command()
def traces(
    stored: Annotated[list[Path], typer.Option("--traces", help="Folder that cos-serve had as --trace-dir.")],
    out: Annotated[Path, typer.Option(help="Folder for chains.jsonl and pairs.jsonl.")] = Path("runs/traces"),
    gap: Annotated[float, typer.Option(min=0, help="Pair two chains whose scores differ by more.")] = 0.2,
    per_question: Annotated[int, typer.Option(min=1, help="Most pairs a question.")] = 1,
    skip_bad: SkipBad = False,
) -> None:
    """Turn stored traces of served searches into PRM rows and preference pairs."""
    from cos.training.stages.traces_to_rows import TracesConfig, run_traces

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
    from cos.training.menu import generated_task

    generated_task().write_heldout(out, mnist, problems, seed)


@app.command()
def plot(
    run: Annotated[Path, typer.Argument(help="A stage's folder, such as runs/cos-tiny/sft.")],
    out: Annotated[Path | None, typer.Option(help="The picture; metrics.png in that folder unless given.")] = None,
) -> None:
    """Draw a stage's metrics.jsonl: losses, rates and what else it logged."""
    from cos.training.runs.plot import plot_metrics

    typer.echo(str(plot_metrics(run, out or run / "metrics.png")))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How stages are run, beside what the recipe says."""

    fresh: digest.Fresh = "never"
    overrides: tuple[str, ...] = ()
    """What of the recipe was given on the command line."""
    skip_bad: bool = False
    json_only: bool = False


def run_stage(recipe: Recipe, stage: StageConfig, how: RunOptions | None = None) -> None:
    """Runs one stage unless it is done; prints what came out. All processes of a run are to call it.

    Errors: InputError for one that was begun with other keys or inputs (`cos.training.runs.digest`).
    """
    how = how or RunOptions()
    context = recipe.context(stage, skip_bad=how.skip_bad)
    name, ranks, begun = folder_name(stage), context.ranks, context
    taken = ranks.first(lambda: digest.begin(recipe, stage, begun, fresh=how.fresh, overrides=how.overrides).digest)
    context = replace(context, digest=taken)
    if ranks.first(lambda: begun.is_done) and how.fresh != "always":
        if not how.json_only and ranks.is_first:
            known = (context.folder / digest.STAGE).is_file()
            note = "" if known else "; with which keys and data is not known, as it has no stage.json"
            typer.echo(f"{name}: done before ({context.folder / DONE}){note}", err=True)
    else:
        logging.basicConfig(level=logging.WARNING)
        _set_threads(context.threads)
        run = _runner(stage)
        if stage.stage in BY_ALL_RANKS:
            run(stage, context)
            give_back_memory()
        else:
            ranks.first(lambda: run(stage, replace(context, ranks=ALONE)))
        ranks.first(lambda: digest.check_unchanged(recipe, stage, context))
    if ranks.is_first:
        done = read_done(context.folder)
        typer.echo(
            json.dumps({"stage": name, "folder": str(context.folder), **done["outcome"], "seconds": done["seconds"]})
        )


def read_done(folder: Path) -> dict[str, Any]:
    """A stage's ``done.json``. Errors: InputError for one that cannot be read."""
    path = folder / DONE
    try:
        done = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
        return {**done, "outcome": {**done["outcome"]}, "seconds": done["seconds"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({error!r}), so that nothing tells how the stage ended; begin it again with "
            "--fresh",
            "runs",
        ) from error


BY_ALL_RANKS = ("sight", "sft", "prm", "dpo", "rounds")
"""Stages that all processes of a run carry out together; of the others the first one does, and the rest wait."""


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _runner(stage: StageConfig) -> Callable[[Any, StageContext], None]:
    """A stage's function. What a stage needs is imported when it runs.

    Errors: InputError when a library of the extra ``train`` is not installed.
    """
    from cos.training.menu import stage_function

    try:
        return stage_function(stage.stage)
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        raise InputError(
            f"stage {stage.stage!r} needs {error.name}, which is not installed: pip install 'cos-serve[train]'", "stage"
        ) from error
