"""Stored traces of served searches, read as chains (`docs/traces.md` has the form of the files).

A trace is the tree of one search. Each way from its root to an answer is a chain, whatever grammar it is written in.
Where the PRM scored every step of it and the answer, and its scores say how likely a step is right, they are labels of
the source ``serving``. Traces of one question about one picture come together.
"""

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cos.search.errors import InputError
from cos.search.types import Piece
from cos.training.data.pieces import Steps, steps_and_answer
from cos.training.data.rows import ChainRow, Labels, ProblemRow, TagLabel
from cos.wire.reply import Candidate
from cos.wire.trace import Trace, read_trace


@dataclass(frozen=True, slots=True)
class Harvest:
    """Chains out of traces, and what became of the rest."""

    chains: list[ChainRow]
    """Those without a label of every tag have no labels. A search that no PRM judged has no scores either."""
    counts: dict[str, int] = field(default_factory=dict[str, int])


def harvest(folders: Iterable[Path], *, hard_at: float = 0.5, skip_bad: bool = False) -> Harvest:
    """The chains of all traces of some trace folders. ``hard_at``: score from which a tag is called good.

    Counted: traces; bad (only with ``skip_bad``); unanswered chains; duplicate chains (the same text
    for the same question: the first that has labels stays); unscored chains (no label of some tag); chains.
    Errors: InputError for a folder that cannot be read or holds no trace, and, unless ``skip_bad``, for a file that is
    no trace of this version, or a search that training has no row for: a question after a conversation, or one about
    several pictures.
    """
    counts = Counter[str]()
    found: dict[str, dict[tuple[Any, ...], ChainRow]] = {}
    for folder in folders:
        for path in trace_files(folder):
            try:
                chains = _chains(folder, _read(path), hard_at, counts)
            except ValueError as error:
                message = f"{path}: {error}"
                if not skip_bad:
                    raise InputError(f"{message}; mend or remove the file, or give --skip-bad", "traces") from error
                if not counts["bad"]:
                    logging.getLogger(__name__).warning("bad traces are left out; the first: %s", message)
                counts["bad"] += 1
                continue
            counts["traces"] += 1
            for problem, steps, answer, more in chains:
                known = found.setdefault(problem.id, {})
                earlier = known.get((steps, answer))
                if earlier is not None:
                    counts["duplicates"] += 1
                    if earlier.labels or not more.get("labels"):
                        continue
                name = f"{problem.id}/{len(known)}" if earlier is None else earlier.id
                known[steps, answer] = ChainRow(id=name, problem=problem, steps=steps, answer=answer, **more)
    rows = [row for known in found.values() for row in known.values()]
    counts["unscored"] = sum(not row.labels for row in rows)
    names = ("traces", "bad", "unanswered", "duplicates", "unscored")
    return Harvest(rows, {**{name: counts[name] for name in names}, "chains": len(rows)})


def trace_files(folder: Path) -> list[Path]:
    """Traces of a folder, the earliest day first. Errors: InputError when there is none."""
    files = sorted(path for path in folder.glob("*/*.json") if not path.name.startswith("."))
    if not files:
        raise InputError(
            f"{folder} holds no trace (<date>/<id>.json); give the folder that cos-serve had as --trace-dir", "traces"
        )
    return files


def _read(path: Path) -> Trace:
    """One trace. Errors: ValueError saying what is wrong with the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    return read_trace(data)


Tree = Mapping[tuple[int, ...], Candidate]
"""Candidates by their places."""

_Chain = tuple[ProblemRow, Steps, str, dict[str, Any]]
"""Problem, steps, answer, and what is known of them as fields of a `ChainRow`."""


def _chains(folder: Path, trace: Trace, hard_at: float, counts: Counter[str]) -> list[_Chain]:
    """The answered chains of a trace. Errors: ValueError when tree or picture are not whole."""
    nodes = {node.path: node for node in trace.tree}
    parents = {path[:-1] for path in nodes}
    leaves = [node for node in trace.tree if node.path not in parents]
    answered = [node for node in leaves if node.answer is not None and node.end == "answer"]
    problem = _problem(folder, trace)
    chains = [_chain(trace, problem, list(_way(nodes, node)), hard_at) for node in answered]
    counts["unanswered"] += len(leaves) - len(answered)
    return chains


def _problem(folder: Path, trace: Trace) -> ProblemRow:
    """Named by question, picture and PRM, so that chains which two PRMs scored are never compared by their scores.
    Errors: ValueError for what training has no row for."""
    if trace.history:
        raise ValueError(
            f"history: the question follows a conversation of {len(trace.history)} turns; "
            "training takes questions that stand alone"
        )
    if len(trace.images) > 1:
        raise ValueError(f"images: {len(trace.images)} pictures; training takes questions about one picture at most")
    image = next(iter(trace.images), None)
    path = None if image is None else (folder / image).resolve()
    if path is not None and not (path.is_relative_to(folder.resolve()) and path.is_file()):
        raise ValueError(f"images: there is no picture {image!r} in the trace folder")
    key = repr((trace.question, path and path.name, trace.prm)).encode()
    return ProblemRow(
        id=f"serving-{hashlib.sha256(key).hexdigest()[:16]}",
        image=path and str(path),
        question=trace.question,
        answer="",
        meta={"prm": trace.prm},
    )


def _way(nodes: Tree, leaf: Candidate) -> Iterator[Candidate]:
    for depth in range(1, len(leaf.path) + 1):
        node = nodes.get(leaf.path[:depth])
        if node is None:
            raise ValueError(f"tree: no candidate at {list(leaf.path[:depth])}, on the way to an answer")
        yield node


def _chain(trace: Trace, problem: ProblemRow, way: Sequence[Candidate], hard_at: float) -> _Chain:
    """The chain of the candidates on the way to an answer. What an answer's piece says beside the answer is a step of
    its own in a row, and both have the score of the piece."""
    pieces = [_piece(node, is_answer=node is way[-1]) for node in way]
    steps, answer = steps_and_answer(pieces)
    scores = [node.score for node in way]
    scores += scores[-1:] * (len(steps) + 1 - len(way))
    parts = [node.logprob for node in way if node.logprob is not None]
    known: dict[str, Any] = {"logprob": math.fsum(parts) if len(parts) == len(way) else None}
    if trace.is_judged:
        known |= {"scores": tuple(scores), "labels": _labels(trace, way, scores, hard_at)}
    return problem, steps, answer, known


def _piece(node: Candidate, *, is_answer: bool) -> Piece:
    if is_answer:
        return Piece("answer", node.answer or "", node.fields)
    if node.end != "step" or not node.text:
        raise ValueError(f"tree: the step at {list(node.path)} has no text, and an answer follows it")
    return Piece("step", node.text, node.fields)


def _labels(
    trace: Trace, way: Sequence[Candidate], scores: Sequence[float | None], hard_at: float
) -> dict[str, Labels]:
    """Labels by their source; none where a tag is unscored, or where scores are no probabilities."""
    if trace.scale is None:
        raise ValueError("scale: null, although a PRM scored the search")
    if not trace.scale.is_probability:
        return {}
    for node in way:
        if node.score is not None and not 0 <= node.score <= 1:
            raise ValueError(f"tree: score {node.score} at {list(node.path)} is no probability")
    labels = tuple(TagLabel(score, score >= hard_at) for score in scores if score is not None)
    return {"serving": labels} if len(labels) == len(scores) else {}
