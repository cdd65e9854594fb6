"""The stages as commands: ``python -m cos.training.run STAGE``; each resumes where it was stopped."""

import asyncio
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from cos.training import mnist
from cos.training.heldout import write_heldout
from cos.training.loop import Plan
from cos.training.models import READER, SIZES, build_model, build_tokenizer, load, load_tokenizer, save, take_text
from cos.training.prm import Judge, tag_accuracy, train_prm
from cos.training.render import Renderer
from cos.training.rollout import rollout_batches, write_rollouts
from cos.training.sft import exact_chains, train_sft
from cos.training.sight import Sight, load_sight, prototypes_of, rescale, train_sight
from cos.training.sight import digit_accuracy as measure_digits

app = typer.Typer(no_args_is_help=True)

Role = Literal["policy", "prm"]
Runs = Annotated[Path, typer.Option(help="Folder for data and states.")]
SEED = 0


@app.callback()
def stages() -> None:
    """Train cos-tiny: sight, then the policy or the PRM."""


@app.command()
def sight(role: Role, runs: Runs = Path("runs"), steps: int = 900, batch: int = 128, rate: float = 1e-3) -> None:
    """Teach the vision tower and projector to name digits; the PRM's, once there is a policy, in the policy's terms."""
    torch.set_num_threads(1)
    size = SIZES[role]
    tokenizer = build_tokenizer(SEED)
    model = build_model(size, tokenizer, SEED)
    aims = None
    if role == "prm":
        policy = load(runs / "policy")
        aims = prototypes_of(policy, SIZES["policy"], mnist.load(runs / "mnist", "policy"), SEED)
    plan = Plan(runs / f"sight-{role}", steps, rate)
    seen = Sight(model, size.text_width)
    train_sight(seen, size, mnist.load(runs / "mnist", role), plan, batch, SEED, aims)
    other = "prm" if role == "policy" else "policy"
    accuracy = measure_digits(seen, mnist.load(runs / "mnist", other), size.image_side)
    typer.echo(f"digit accuracy on unseen digits: {accuracy:.4f}")


@app.command()
def sft(
    runs: Runs = Path("runs"),
    steps: int = 900,
    batch: int = 32,
    rate: float = 1e-3,
    threads: int = 1,
    thawed: bool = False,
) -> None:
    """Teach the policy to write chains of steps; writes the checkpoint ``policy`` into the folder."""
    torch.set_num_threads(threads)
    size, tokenizer = SIZES["policy"], build_tokenizer(SEED)
    model = build_model(size, tokenizer, SEED)
    rescale(load_sight(model, size, runs / "sight-policy"), Renderer(mnist.load(runs / "mnist", "policy")), size, SEED)
    train_sft(
        model,
        tokenizer,
        size,
        mnist.load(runs / "mnist", "policy"),
        Plan(runs / "sft", steps, rate),
        batch,
        SEED,
        thawed,
    )
    share = exact_chains(model, tokenizer, size, mnist.load(runs / "mnist", "prm"), SEED + 1)
    typer.echo(f"exact chains on unseen digits, teacher-forced: {share:.3f}")
    save(runs / "policy", size, model, tokenizer)


@app.command()
def rollout(runs: Runs = Path("runs"), problems: int = 600, each: int = 8) -> None:
    """Sample the policy's own chains over the PRM's digits."""
    digits = mnist.load(runs / "mnist", "prm")
    asyncio.run(write_rollouts(runs / "rollouts", runs / "policy", digits, problems, each, SEED))


@app.command()
def prm(runs: Runs = Path("runs"), steps: int = 1800, batch: int = 24, rate: float = 1e-3, threads: int = 2) -> None:
    """Teach the PRM to read and to judge, every other batch on the policy's own chains; writes ``prm``."""
    torch.set_num_threads(threads)
    size, tokenizer = SIZES["prm"], load_tokenizer(runs / "policy")
    model = build_model(size, tokenizer, SEED)
    take_text(load(runs / "policy"), model)
    load_sight(model, size, runs / "sight-prm")
    judge = Judge(model, size.image_side, READER.text_layers)
    own = rollout_batches(runs / "rollouts", tokenizer, batch)
    digits = mnist.load(runs / "mnist", "prm")
    train_prm(judge, tokenizer, digits, Plan(runs / "prm-judge", steps, rate), batch, SEED, own)
    found = tag_accuracy(judge, tokenizer, mnist.load(runs / "mnist", "policy"), SEED + 1)
    typer.echo(f"on clumsy chains over unseen digits: {found}")
    save(runs / "prm", size, model, tokenizer)


@app.command()
def heldout(runs: Runs = Path("runs"), problems: int = 1000) -> None:
    """Draw the held-out ledgers with the digits of MNIST's test writers."""
    write_heldout(runs / "heldout.zip", mnist.load(runs / "mnist", "evaluation"), problems, SEED)


if __name__ == "__main__":
    app()
