"""The embedded default, cos-tiny: a policy, its PRM, and held-out ledgers to try them on."""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

EMBEDDED = "cos-tiny"
"""The model name that stands for the embedded checkpoint of a role."""

EXAMPLE_ID = "ledger-0032"


@dataclass(frozen=True, slots=True)
class LedgerProblem:
    """One held-out problem: a ledger written by MNIST's test writers, and a question about it."""

    id: str
    kind: str
    question: str
    answer: str
    rows: tuple[str, ...]
    """What the picture really shows."""
    image_png: bytes


@dataclass(frozen=True, slots=True)
class Example:
    """The bundled example."""

    image_path: Path
    question: str
    answer: str


def embedded(role: str) -> Path:
    """Folder of the embedded checkpoint: ``policy`` or ``prm``."""
    return Path(__file__).parent / f"{EMBEDDED}-{role}"


def resolve(role: str, model: str) -> str:
    """The folder or hub name that a model name stands for."""
    return str(embedded(role)) if model == EMBEDDED else model


def heldout() -> list[LedgerProblem]:
    """The held-out set, always in the same order."""
    with zipfile.ZipFile(Path(__file__).parent / "heldout.zip") as archive:
        lines = io.TextIOWrapper(archive.open("problems.jsonl"), encoding="utf-8")
        rows = [json.loads(line) for line in lines]
        return [
            LedgerProblem(
                id=row["id"],
                kind=row["kind"],
                question=row["question"],
                answer=row["answer"],
                rows=tuple(row["rows"]),
                image_png=archive.read(f"{row['id']}.png"),
            )
            for row in rows
        ]


def example() -> Example:
    """The problem a server solves at start."""
    problem = next(problem for problem in heldout() if problem.id == EXAMPLE_ID)
    return Example(Path(__file__).parent / "example.png", problem.question, problem.answer)
