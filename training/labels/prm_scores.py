"""A PRM's scores of chains that are written already, through our own engine.

The chains of a question are read as one tree: what two of them begin with alike is read once, the picture is rendered
once, and a step is read when the one before it has been: the engine's prefix cache holds all but its own tokens.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path as File

from cos.checkpoints import resolve
from cos.evaluation.failures import naming, of_row
from cos.evaluation.in_process import open_prm
from cos.evaluation.journal import Journal, work_off
from cos.evaluation.progress import bar_of
from cos.evaluation.provenance import revision
from cos.evaluation.tree_scores import CONCURRENCY, read_tree
from cos.prm import menu
from cos.search import grammars
from cos.search.grammar import token_ids
from cos.search.models import Models
from cos.search.ports import Scorer
from cos.search.types import Candidate, Path, Piece
from cos.training.data.pieces import chain_pieces
from cos.training.data.questions import question_of
from cos.training.data.rows import ChainRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Prm:
    """Which PRM reads, and how its engine is started (as `cos.engines.settings.EngineSettings` has it)."""

    model: str
    """A checkpoint folder, a hub name, cos-tiny, or scripted."""
    threads: int | None = None
    dtype: str = "auto"
    format: str = menu.AUTO
    """What ``--prm-format`` calls the format that it was trained in."""
    grammar: str = grammars.AUTO
    """What ``--grammar`` calls the grammar that the chains are written in for it."""


async def score_chains(
    rows: Sequence[ChainRow],
    prm: Prm,
    concurrency: int = CONCURRENCY,
    journal: File | None = None,
    failed: list[str] | None = None,
) -> list[ChainRow]:
    """The rows, in their order; those that lack a score of any tag have every tag read. No engine starts for none.

    ``concurrency``: reads at once. ``journal``: where finished questions stand while it runs; a stopped run goes on
    from there, and reads again what lacks a score. ``failed``: gets why each tag without a score has none.

    Errors: InputError for a PRM that cannot be started or a picture that cannot be read; EngineDead.
    """
    bare = [row for row in rows if needs_scores(row)]
    if not bare:
        return list(rows)
    async with open_prm(
        prm.model, prm_format=prm.format, grammar=prm.grammar, threads=prm.threads, dtype=prm.dtype
    ) as models:
        with (
            nullcontext()
            if journal is None
            else Journal(
                journal, {"prm": prm.model, "revision": revision(resolve("prm", prm.model)), "dtype": prm.dtype}
            )
        ) as kept:
            read = iter(await read_chains(bare, models, concurrency, kept, failed))
    return [next(read) if needs_scores(row) else row for row in rows]


def needs_scores(row: ChainRow) -> bool:
    """Whether a chain lacks the score of any tag."""
    return row.scores is None or None in row.scores


async def read_chains(
    rows: Sequence[ChainRow],
    models: Models,
    concurrency: int = CONCURRENCY,
    journal: Journal | None = None,
    failed: list[str] | None = None,
) -> list[ChainRow]:
    """The rows with the PRM's score at every tag; None where a read failed twice or was not finite, with the reason in
    ``failed``.

    Errors: ValueError for models without a PRM; InputError for a picture that cannot be read; EngineDead; StageError
    for all else. They name the question.
    """
    groups: dict[str, list[ChainRow]] = {}
    for row in rows:
        groups.setdefault(row.problem.id, []).append(row)
    if models.scorer is None:
        raise ValueError("there is no PRM among the models; match them with one")
    scorer, gate = models.scorer, asyncio.Semaphore(concurrency)
    scores: dict[str, list[list[float | None]]] = {}
    waiting: list[list[ChainRow]] = []
    for group in groups.values():
        known = None if journal is None else journal.done.get(_key(group))
        if known is None or any(None in tags for tags in known["scores"]):
            waiting.append(group)
        else:
            scores[group[0].problem.id] = known["scores"]
    with bar_of("questions scored", len(groups), len(groups) - len(waiting)) as bar:

        async def read(group: list[ChainRow]) -> None:
            with naming(of_row(group[0].problem.id)):
                found = await _read_question(scorer, models, group, gate, failed)
            scores[group[0].problem.id] = found
            if journal is not None:
                journal.add(_key(group), {"scores": found})
            bar.update()

        # One question more than fills the engine: the next is rendered while the last reads of others go on.
        workers = -(-concurrency * len(groups) // max(1, len(rows))) + 1
        await work_off(waiting, read, workers)
    read_scores = {name: iter(found) for name, found in scores.items()}
    return [replace(row, scores=tuple(next(read_scores[row.problem.id]))) for row in rows]


def _key(group: Sequence[ChainRow]) -> str:
    """Names a question with these very chains: other chains of the same question are not taken for them."""
    problem = group[0].problem
    picture = problem.image and File(problem.image).name
    content = repr([(problem.question, picture), [(row.steps, row.answer) for row in group]])
    return f"{problem.id} {hashlib.sha256(content.encode()).hexdigest()[:16]}"


async def _read_question(
    scorer: Scorer, models: Models, group: Sequence[ChainRow], gate: asyncio.Semaphore, failed: list[str] | None
) -> list[list[float | None]]:
    """The scores of every chain of one question."""
    session = await scorer.open(await question_of(group[0].problem))
    nodes, leaves = tree_of(models, group)
    scores = await read_tree(session, nodes, gate, failed)
    return [[scores[leaf[:depth]] for depth in range(1, len(leaf) + 1)] for leaf in leaves]


def tree_of(models: Models, rows: Sequence[ChainRow]) -> tuple[dict[Path, Candidate], list[Path]]:
    """Chains of one question as a tree, parents first, and where each of them ends. They are written as the policy
    would have written them."""
    nodes: dict[Path, Candidate] = {}
    places: dict[tuple[Path, object], Path] = {}
    width = Counter[Path]()
    leaves: list[Path] = []
    for row in rows:
        path: Path = ()
        for content, piece in zip((*row.steps, row.answer), chain_pieces(row.steps, row.answer), strict=True):
            if (path, content) not in places:
                place = places[path, content] = (*path, width[path])
                width[path] += 1
                nodes[place] = _candidate(models, place, piece)
            path = places[path, content]
        leaves.append(path)
    return nodes, leaves


def _candidate(models: Models, path: Path, piece: Piece) -> Candidate:
    ids = token_ids(models.policy.vocabulary, models.grammar.spans(piece, first=len(path) == 1))
    end = "answer" if piece.kind == "answer" else "step"
    return Candidate(path=path, written=ids, tokens=len(ids), piece=piece, end=end)
