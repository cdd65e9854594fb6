"""Ledgers as rows of problems: drawn, and found again behind a row."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image

from cos.ledger.mnist import Digits
from cos.ledger.render import Renderer, cells_of
from cos.ledger.task import Problem, derive, sample_problem
from cos.search.errors import InputError
from cos.training.config.names import Split
from cos.training.data.rows import ProblemRow


def ledger_problem(row: ProblemRow) -> Problem:
    """The ledger behind a problem. Errors: InputError when there is none."""
    try:
        meta = cast("Mapping[str, Any]", row.meta)
        first, second = meta.get("pair", (0, 0))
        return Problem(tuple(str(r) for r in meta["rows"]), meta["kind"], (first, second), int(meta.get("limit", 0)))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"problem {row.id!r} is no ledger (its meta lacks rows and kind): only ledgers have exact labels; "
            "have other chains labelled by monte_carlo or a judge",
            "problems",
        ) from error


def ledger_meta(problem: Problem) -> dict[str, Any]:
    """What `ledger_problem` reads."""
    return {"rows": list(problem.rows), "kind": problem.kind, "pair": list(problem.pair), "limit": problem.limit}


def draw_ledgers(folder: Path, digits: Digits, split: Split, problems: int, seed: int) -> list[ProblemRow]:
    """Rows ``<split>-<seed>-<number>`` with pictures in ``folder/images``; pictures that are there already are kept.

    Number i follows from split, seed and i alone: asking for more problems adds to the same ones.
    """
    renderer = Renderer(digits)
    images = folder.resolve() / "images"
    images.mkdir(parents=True, exist_ok=True)
    rows: list[ProblemRow] = []
    for index in range(problems):
        name = f"{split}-{seed}-{index:06d}"
        rng = random.Random(f"ledger/{name}")
        problem = sample_problem(rng)
        noise = torch.Generator().manual_seed(rng.getrandbits(48))
        path = images / f"{name}.png"
        if not path.exists():
            picture = renderer.draw(torch.tensor([cells_of(problem.rows)]), noise)[0]
            partial = path.with_suffix(".partial")
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(partial, "PNG")
            partial.replace(path)
        rows.append(
            ProblemRow(
                id=name,
                image=str(path),
                question=problem.question,
                answer=derive(problem).answer,
                digits=split,
                meta=ledger_meta(problem),
            )
        )
    return rows
