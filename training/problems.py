"""A stage's problems: ledgers drawn with the digits of one split, or rows from files."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cos.search.errors import InputError
from cos.training.folder import StageContext
from cos.training.keys import RowKeys
from cos.training.ledger import derive, sample_problem
from cos.training.mnist import Digits, Split
from cos.training.rows import ChainRow, ProblemRow, check_gold, holds_chains, ledger_meta, read_rows, write_rows

if TYPE_CHECKING:
    from cos.training.recipe import ProblemSource

PROBLEMS = "problems.jsonl"


def problems_of(source: "ProblemSource", context: StageContext) -> list[ProblemRow]:
    """The problems of a recipe's source; ledgers are drawn into the stage's folder, as problems.jsonl and images/.

    Errors: InputError for files that cannot be read, hold no problem, or hold one id for two problems.
    """
    ledger = source.ledger
    if ledger is None:
        files = [context.resolve(path) for path in source.data]
        return read_problems(files, skip_bad=context.skip_bad, images=images_of(source, context))
    from cos.training import mnist

    if ledger.problems is None:
        raise InputError("ledger: give problems, how many are to be drawn", "ledger.problems")
    seed = context.seed if ledger.seed is None else ledger.seed
    rows = draw_ledgers(context.folder, mnist.load(context.mnist, ledger.digits), ledger.digits, ledger.problems, seed)
    write_rows(context.folder / PROBLEMS, rows)
    return rows


def images_of(keys: RowKeys, context: StageContext) -> Path | None:
    """The folder of a section's pictures, where it names one."""
    return None if keys.images is None else context.resolve(keys.images)


def read_problems(paths: Iterable[Path], *, skip_bad: bool = False, images: Path | None = None) -> list[ProblemRow]:
    """The problems of JSONL files of problems or of chains, each once, in order. Errors: as `problems_of`."""
    paths = list(paths)
    found: dict[str, ProblemRow] = {}
    for path in paths:
        rows = (
            (chain.problem for chain in read_rows(path, ChainRow, skip_bad=skip_bad, images=images))
            if holds_chains(path)
            else read_rows(path, ProblemRow, skip_bad=skip_bad, images=images)
        )
        for row in rows:
            if found.setdefault(row.id, row) != row:
                raise InputError(f"{path}: id {row.id!r} names two different problems; rename one", "problems")
    if not found:
        raise InputError(f"{', '.join(map(str, paths))}: there is no problem in it", "problems")
    check_gold(found.values())
    return list(found.values())


def chains_of(paths: Iterable[str], context: StageContext, images: Path | None = None) -> list[ChainRow]:
    """The chains of a stage's files; ``images`` as `read_rows` has it.

    Errors: InputError for files that cannot be read or hold none.
    """
    paths = list(paths)
    files = [context.resolve(path) for path in paths]
    found = [row for file in files for row in read_rows(file, ChainRow, skip_bad=context.skip_bad, images=images)]
    if not found:
        raise InputError(f"{', '.join(paths)}: there is no chain in it", "chains")
    return found


def draw_ledgers(folder: Path, digits: Digits, split: Split, problems: int, seed: int) -> list[ProblemRow]:
    """Rows ``<split>-<seed>-<number>`` with pictures in ``folder/images``; pictures that are there already are kept.

    Number i follows from split, seed and i alone: asking for more problems adds to the same ones.
    """
    import torch
    from PIL import Image

    from cos.training.render import Renderer, cells_of

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
            beside = path.with_suffix(".partial")
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(beside, "PNG")
            beside.replace(path)
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
