"""Small files of chains and pairs for the training stages, and what is needed to run one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cos.search.grammars.cos import Step
from cos.training.data.rows import ChainRow, PairedChain, PairRow, ProblemRow, TagLabel, write_rows
from cos.training.learning.encode import Collator, Sample, TurnEncoder, load_checkpoint, model_inputs
from cos.training.runs.folder import StageContext

QUESTION = "What is the total of all rows?"


def context(runs: Path, name: str, seed: int = 0) -> StageContext:
    """A stage's context below ``runs``."""
    return StageContext(folder=runs / name, runs=runs, seed=seed)


def _steps(number: int, right: bool) -> tuple[Step, ...]:
    shown = number if right else number + 1
    reading = Step("Read row 1", f"Row 1 shows {shown}.", "It has 2 digits.")
    return (reading, Step("Add", f"{shown} + 15 = {shown + 15}.", "Both rows are used."))[: 1 + number % 2]


def problems(folder: Path, count: int) -> list[ProblemRow]:
    """Questions about pictures of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows: list[ProblemRow] = []
    for index in range(count):
        image = folder / f"{index}.png"
        Image.fromarray(rng.integers(0, 255, (56, 56, 3), np.uint8)).save(image)
        rows.append(ProblemRow(id=f"p{index}", image=str(image), question=QUESTION, answer=str(25 + index)))
    return rows


def write_chains(path: Path, count: int) -> Path:
    """Labelled chains, every other one wrong."""
    rows: list[ChainRow] = []
    for index, problem in enumerate(problems(path.parent / "pictures", count)):
        right = index % 2 == 0
        steps = _steps(10 + index, right)
        labels = tuple(TagLabel(float(right), right) for _ in range(len(steps) + 1))
        answer = problem.answer if right else "0"
        row = ChainRow(
            id=f"{problem.id}/0", problem=problem, steps=steps, answer=answer, right=right, labels={"exact": labels}
        )
        rows.append(row)
    write_rows(path, rows)
    return path


def write_pairs(path: Path, count: int) -> Path:
    """Pairs of a right and a wrong chain."""
    rows: list[PairRow] = []
    for index, problem in enumerate(problems(path.parent / "pictures", count)):
        rows.append(
            PairRow(
                problem=problem,
                chosen=PairedChain(id=f"{problem.id}/0", steps=_steps(10 + index, True), answer=problem.answer),
                rejected=PairedChain(id=f"{problem.id}/1", steps=_steps(10 + index, False), answer="0"),
                chosen_score=0.9,
                rejected_score=0.1,
            )
        )
    write_rows(path, rows)
    return path


@torch.no_grad()
def logits_of(model: Any, processor: Any) -> torch.Tensor:
    """What a model says of one fixed chain about one fixed picture, in float32."""
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 255, (56, 56, 3), np.uint8))
    turn = TurnEncoder(processor.tokenizer).chain(_steps(10, True), "25")
    batch = model_inputs(Collator(processor)([Sample(picture, QUESTION, turn)]))
    return model.float().eval()(**batch).logits


def saved_logits(folder: Path) -> torch.Tensor:
    """The same of a checkpoint folder."""
    return logits_of(*load_checkpoint(folder))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """A checkpoint's weights by name."""
    return load_checkpoint(folder)[0].state_dict()


def differing(ours: Path, theirs: Path) -> Sequence[str]:
    """Names of the weights that differ between two checkpoints in any bit."""
    other = weights(theirs)
    return [name for name, value in weights(ours).items() if not torch.equal(value, other[name])]


def write_problems(path: Path, rows: Sequence[ProblemRow]) -> Path:
    """A file of problems."""
    write_rows(path, rows)
    return path
