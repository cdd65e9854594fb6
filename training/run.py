"""The stages as commands: ``python -m cos.training.run STAGE``; each resumes where it was stopped."""

import asyncio
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

from cos.training import mnist
from cos.training.heldout import write_heldout
from cos.training.loop import Plan
from cos.training.models import SIZES, Size, build_model, build_tokenizer, save
from cos.training.prm import tag_accuracy, train_prm
from cos.training.render import Renderer
from cos.training.rollout import rollout_batches, write_rollouts
from cos.training.sft import exact_chains, train_sft
from cos.training.sight import digit_accuracy as measure_digits
from cos.training.sight import load_sight, rescale, train_sight
from cos.training.text import Reader

app = typer.Typer(no_args_is_help=True)

Role = Literal["policy", "prm"]
Runs = Annotated[Path, typer.Option(help="Folder for data and states.")]
SEED = 0


@app.callback()
def stages() -> None:
    """Train cos-tiny: sight, then the policy or the PRM."""


@app.command()
def sight(role: Role, runs: Runs = Path("runs"), steps: int = 900, batch: int = 128, rate: float = 1e-3) -> None:
    """Teach the vision tower and projector to name digits."""
    torch.set_num_threads(1)
    size = SIZES[role]
    model = build_model(size, build_tokenizer(SEED), SEED)
    plan = Plan(runs / f"sight-{role}", steps, rate)
    train_sight(model, size, mnist.load(runs / "mnist", role), plan, batch, SEED)
    seen = load_sight(build_model(size, build_tokenizer(SEED), SEED), size, plan.folder)
    other = "prm" if role == "policy" else "policy"
    accuracy = measure_digits(seen, mnist.load(runs / "mnist", other), size.image_side)
    typer.echo(f"digit accuracy on unseen digits: {accuracy:.4f}")


def _seeing(role: Role, runs: Path) -> tuple[Size, PreTrainedTokenizerFast, InternVLForConditionalGeneration]:
    """A model with the sight that its first stage gave it."""
    size, tokenizer = SIZES[role], build_tokenizer(SEED)
    model = build_model(size, tokenizer, SEED)
    sighted = load_sight(model, size, runs / f"sight-{role}")
    rescale(sighted, Renderer(mnist.load(runs / "mnist", role)), size, SEED)
    return size, tokenizer, model


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
    size, tokenizer, model = _seeing("policy", runs)
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
def prm(
    runs: Runs = Path("runs"),
    steps: int = 1500,
    batch: int = 32,
    rate: float = 1e-3,
    threads: int = 1,
    thawed: bool = False,
) -> None:
    """Teach the PRM to read and to judge; writes the checkpoint ``prm`` into the folder."""
    torch.set_num_threads(threads)
    size, tokenizer, model = _seeing("prm", runs)
    train_prm(
        model,
        tokenizer,
        size,
        mnist.load(runs / "mnist", "prm"),
        Plan(runs / "prm-clumsy", steps, rate),
        batch,
        SEED,
        thawed,
    )
    found = tag_accuracy(model, tokenizer, size, mnist.load(runs / "mnist", "policy"), SEED + 1)
    typer.echo(f"on clumsy chains over unseen digits: {found}")
    save(runs / "prm", size, model, tokenizer)


@app.command()
def rollout(runs: Runs = Path("runs"), problems: int = 1500, each: int = 4) -> None:
    """Sample the policy's own chains over the PRM's digits."""
    digits = mnist.load(runs / "mnist", "prm")
    asyncio.run(write_rollouts(runs / "rollouts", runs / "policy", digits, problems, each, SEED))


@app.command()
def prm_own(
    runs: Runs = Path("runs"),
    steps: int = 300,
    batch: int = 24,
    rate: float = 3e-4,
    threads: int = 1,
    thawed: bool = False,
) -> None:
    """Go on training the PRM, every other batch on the policy's own chains; writes the checkpoint ``prm`` anew."""
    torch.set_num_threads(threads)
    size, tokenizer, model = _seeing("prm", runs)
    before = torch.load(runs / "prm-clumsy" / "state.pt", weights_only=True)["modules"]
    Reader(model, size.image_side).load_state_dict(before)
    own = rollout_batches(runs / "rollouts", tokenizer, batch)
    digits = mnist.load(runs / "mnist", "prm")
    train_prm(model, tokenizer, size, digits, Plan(runs / "prm-own", steps, rate), batch, SEED + 2, thawed, own)
    save(runs / "prm", size, model, tokenizer)


@app.command()
def heldout(runs: Runs = Path("runs"), problems: int = 1000) -> None:
    """Draw the held-out ledgers with the digits of MNIST's test writers."""
    write_heldout(runs / "heldout.zip", mnist.load(runs / "mnist", "evaluation"), problems, SEED)


if __name__ == "__main__":
    app()
