"""The embedded default, cos-tiny: a policy, its PRM, and held-out ledgers to try them on."""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EMBEDDED = "cos-tiny"
"""The model name that stands for the embedded checkpoint of a role."""


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
class ExampleStep:
    """One step of a written-out solution."""

    text: str
    fields: Mapping[str, str]
    """Its named parts, for a step format that names parts."""


@dataclass(frozen=True, slots=True)
class ExampleChain:
    """A written-out solution."""

    steps: tuple[ExampleStep, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Example:
    """The bundled example, with a right and a wrong solution: what a PRM must tell apart."""

    problem_id: str
    """Its place in the held-out set."""
    image_path: Path
    question: str
    answer: str
    right: ExampleChain
    wrong: ExampleChain


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
    folder = Path(__file__).parent
    told = json.loads((folder / "example.json").read_text(encoding="utf-8"))
    problem = next(problem for problem in heldout() if problem.id == told["problem"])
    return Example(
        problem.id,
        folder / "example.png",
        problem.question,
        problem.answer,
        right=_chain(told["right"]),
        wrong=_chain(told["wrong"]),
    )


def _chain(told: dict[str, Any]) -> ExampleChain:
    return ExampleChain(tuple(ExampleStep(step["text"], step["fields"]) for step in told["steps"]), told["answer"])
