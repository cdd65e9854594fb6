"""The stages as commands: ``python -m cos.training.run STAGE``; each resumes where it was stopped."""

import asyncio
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from torch import Tensor
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

from cos.training import mnist
from cos.training.comparator import mark_digits, start_comparator
from cos.training.heldout import write_heldout
from cos.training.loop import Plan
from cos.training.models import PRM, READER, SIZES, Size, build_model, build_tokenizer, deepen, save, token_id
from cos.training.prm import Weights, clumsy_batches, label_ids, tag_accuracy, train_prm
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


def _seeing(
    role: Role | Literal["reader"], runs: Path
) -> tuple[Size, PreTrainedTokenizerFast, InternVLForConditionalGeneration]:
    """A model with the sight that its first stage gave it."""
    size, tokenizer = SIZES[role], build_tokenizer(SEED)
    model = build_model(size, tokenizer, SEED)
    of: Role = "policy" if role == "policy" else "prm"
    sighted = load_sight(model, size, runs / f"sight-{of}")
    rescale(sighted, Renderer(mnist.load(runs / "mnist", of)), size, SEED)
    return size, tokenizer, model


def _digit_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    return [token_id(tokenizer, str(digit)) for digit in range(10)]


def _trained(folder: Path) -> dict[str, Tensor]:
    """The weights of a stage."""
    return torch.load(folder / "state.pt", weights_only=True)["modules"]


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
def reader(runs: Runs = Path("runs"), steps: int = 850, batch: int = 24, rate: float = 1e-3, threads: int = 1) -> None:
    """Teach the lower layers of the PRM to read (and to judge, which they hardly learn)."""
    torch.set_num_threads(threads)
    size, tokenizer, model = _seeing("reader", runs)
    digits = mnist.load(runs / "mnist", "prm")
    train_prm(model, tokenizer, size, digits, Plan(runs / "reader", steps, rate), batch, SEED, Weights())


@app.command()
def marked(runs: Runs = Path("runs"), steps: int = 40, batch: int = 24, rate: float = 5e-4, threads: int = 1) -> None:
    """Mark the digits in the reader's embeddings and let it get used to them."""
    torch.set_num_threads(threads)
    size, tokenizer, model = _seeing("reader", runs)
    Reader(model, size.image_side).load_state_dict(_trained(runs / "reader"))
    digits = mnist.load(runs / "mnist", "prm")
    seen = clumsy_batches(tokenizer, digits, batch, SEED + 3)
    mark_digits(model, [seen(0), seen(1)], _digit_ids(tokenizer), size.image_side)
    plan = Plan(runs / "marked", steps, rate, warmup=5)
    train_prm(model, tokenizer, size, digits, plan, batch, SEED + 1, Weights(reading=1.0, dense=0.0, tags=0.0))


@app.command()
def prm(runs: Runs = Path("runs"), steps: int = 200, batch: int = 24, rate: float = 1e-3, threads: int = 1) -> None:
    """Give the reader a comparator and two layers more, which learn to judge by it; writes the checkpoint ``prm``."""
    torch.set_num_threads(threads)
    size, tokenizer, shallow = _seeing("reader", runs)
    Reader(shallow, size.image_side).load_state_dict(_trained(runs / "marked"))
    model = build_model(PRM, tokenizer, SEED)
    deepen(shallow, model)
    digits = mnist.load(runs / "mnist", "prm")
    seen = clumsy_batches(tokenizer, digits, batch, SEED + 3)
    first = size.text_layers
    labels = label_ids(tokenizer)
    start_comparator(model, first, [seen(step) for step in range(9)], _digit_ids(tokenizer), labels, PRM.image_side)
    plan = Plan(runs / "prm-clumsy", steps, rate, warmup=10)
    # The comparator is frozen too: at this rate its fine weights would be gone before the layers above use them.
    train_prm(model, tokenizer, PRM, digits, plan, batch, SEED + 2, Weights(reading=0.0), frozen_layers=first + 1)
    found = tag_accuracy(model, tokenizer, PRM, mnist.load(runs / "mnist", "policy"), SEED + 1)
    typer.echo(f"on clumsy chains over unseen digits: {found}")
    save(runs / "prm", PRM, model, tokenizer)


@app.command()
def rollout(runs: Runs = Path("runs"), problems: int = 1500, each: int = 4) -> None:
    """Sample the policy's own chains over the PRM's digits."""
    digits = mnist.load(runs / "mnist", "prm")
    asyncio.run(write_rollouts(runs / "rollouts", runs / "policy", digits, problems, each, SEED))


@app.command()
def prm_own(runs: Runs = Path("runs"), steps: int = 300, batch: int = 24, rate: float = 3e-4, threads: int = 1) -> None:
    """Go on training the PRM, every other batch on the policy's own chains; writes the checkpoint ``prm``."""
    torch.set_num_threads(threads)
    tokenizer = build_tokenizer(SEED)
    model = build_model(PRM, tokenizer, SEED)
    Reader(model, PRM.image_side).load_state_dict(_trained(runs / "prm-clumsy"))
    own = rollout_batches(runs / "rollouts", tokenizer, batch)
    plan = Plan(runs / "prm-own", steps, rate, warmup=20)
    digits = mnist.load(runs / "mnist", "prm")
    weights = Weights(reading=0.0)
    train_prm(model, tokenizer, PRM, digits, plan, batch, SEED + 2, weights, own, frozen_layers=READER.text_layers + 1)
    save(runs / "prm", PRM, model, tokenizer)


@app.command()
def heldout(runs: Runs = Path("runs"), problems: int = 1000) -> None:
    """Draw the held-out ledgers with the digits of MNIST's test writers."""
    write_heldout(runs / "heldout.zip", mnist.load(runs / "mnist", "evaluation"), problems, SEED)


if __name__ == "__main__":
    app()
