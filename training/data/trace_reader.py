"""Stored traces of served searches, read as chains (`docs/traces.md` has the form of the files).

A trace is the tree of one search. Each way from its root to an answer is a chain; where the PRM scored every step of it
and the answer, the scores are labels of the source ``serving``. Traces of one question about one picture come together.
"""

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cos.search.errors import InputError
from cos.search.grammars.cos import Step
from cos.training.data.rows import ChainRow, ProblemRow, TagLabel

VERSION = 1
"""The form of a trace that is read here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One candidate of a search."""

    path: tuple[int, ...]
    """The child index at each level."""
    end: str
    """"answer", "step", or why nothing could follow."""
    name: str | None
    thought: str | None
    reflection: str | None
    answer: str | None
    score: float | None
    """P(good) by the PRM where ``parameters.score`` is "prm"; null is unscored."""
    logprob: float | None
    """Log-probability of its text, nats; null where nobody asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTrace:
    """One search, as far as training needs it; further keys of the file are passed over."""

    version: int
    id: str
    question: str
    image: str | None
    """The picture's file, relative to the trace folder; None for a question about none."""
    prm: str | None
    parameters: dict[str, Any]
    tree: tuple[Node, ...]

    @property
    def is_judged(self) -> bool:
        """Whether its scores are the PRM's."""
        return self.parameters.get("score") == "prm"


@dataclass(frozen=True, slots=True)
class Harvest:
    """Chains out of traces, and what became of the rest."""

    chains: list[ChainRow]
    """Those without a label of every tag have no labels; a search that no PRM judged has no scores either."""
    counts: dict[str, int] = field(default_factory=dict[str, int])


def harvest(folders: Iterable[Path], *, hard_at: float = 0.5, skip_bad: bool = False) -> Harvest:
    """The chains of all traces of some trace folders. ``hard_at``: score from which a tag is called good.

    Counted: traces; bad (only with ``skip_bad``); unanswered chains; duplicate chains (the same text
    for the same question: the first that has labels stays); unscored chains (no label of some tag); chains.
    Errors: InputError for a folder that cannot be read or holds no trace, and, unless ``skip_bad``, for a file that is
    no trace of this version.
    """
    counts = Counter[str]()
    found: dict[str, dict[tuple[Any, ...], ChainRow]] = {}
    for folder in folders:
        for path in trace_files(folder):
            try:
                chains = _chains(folder, read_trace(path), hard_at, counts)
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


def read_trace(path: Path) -> StoredTrace:
    """One trace. Errors: ValueError saying what is wrong with the file."""
    try:
        data = path.read_bytes()
        found = json.loads(data)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not JSON: {error}") from error
    version = found.get("version") if isinstance(found, dict) else None
    if version != VERSION:
        raise ValueError(f"a trace of version {version!r}, and this program reads version {VERSION}")
    try:
        return _adapter().validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


@lru_cache
def _adapter() -> TypeAdapter[StoredTrace]:
    return TypeAdapter(StoredTrace)


_Chain = tuple[ProblemRow, tuple[Step, ...], str, dict[str, Any]]
"""Problem, steps, answer, and what is known of them as fields of a `ChainRow`."""


def _chains(folder: Path, trace: StoredTrace, hard_at: float, counts: Counter[str]) -> list[_Chain]:
    """The answered chains of a trace. Errors: ValueError when tree or picture are not whole."""
    nodes = {node.path: node for node in trace.tree}
    parents = {path[:-1] for path in nodes}
    leaves = [node for node in trace.tree if node.path not in parents]
    answered = [node for node in leaves if node.answer is not None and node.end == "answer"]
    problem = _problem(folder, trace)
    chains = [
        (problem, tuple(_steps(nodes, node)), node.answer or "", _known(trace, nodes, node, hard_at))
        for node in answered
    ]
    counts["unanswered"] += len(leaves) - len(answered)
    return chains


def _problem(folder: Path, trace: StoredTrace) -> ProblemRow:
    """Named by question, picture and PRM, so that chains which two PRMs scored are never compared by their scores."""
    path = None if trace.image is None else (folder / trace.image).resolve()
    if path is not None and not (path.is_relative_to(folder.resolve()) and path.is_file()):
        raise ValueError(f"image: there is no picture {trace.image!r} in the trace folder")
    key = repr((trace.question, path and path.name, trace.prm)).encode()
    return ProblemRow(
        id=f"serving-{hashlib.sha256(key).hexdigest()[:16]}",
        image=path and str(path),
        question=trace.question,
        answer="",
        meta={"prm": trace.prm},
    )


def _way(nodes: Mapping[tuple[int, ...], Node], leaf: Node) -> Iterator[Node]:
    for depth in range(1, len(leaf.path) + 1):
        node = nodes.get(leaf.path[:depth])
        if node is None:
            raise ValueError(f"tree: no candidate at {list(leaf.path[:depth])}, on the way to an answer")
        yield node


def _steps(nodes: Mapping[tuple[int, ...], Node], leaf: Node) -> Iterator[Step]:
    for node in _way(nodes, leaf):
        if node is leaf:
            return
        if node.name is None or node.thought is None or node.reflection is None:
            raise ValueError(f"tree: the step at {list(node.path)} has no text, and an answer follows it")
        yield Step(node.name, node.thought, node.reflection)


def _known(trace: StoredTrace, nodes: Mapping[tuple[int, ...], Node], leaf: Node, hard_at: float) -> dict[str, Any]:
    way = list(_way(nodes, leaf))
    parts = [node.logprob for node in way if node.logprob is not None]
    known: dict[str, Any] = {"logprob": math.fsum(parts) if len(parts) == len(way) else None}
    if not trace.is_judged:
        return known
    for node in way:
        if node.score is not None and not 0 <= node.score <= 1:
            raise ValueError(f"tree: score {node.score} at {list(node.path)} is no probability")
    scores = tuple(node.score for node in way)
    labels = tuple(TagLabel(score, score >= hard_at) for score in scores if score is not None)
    return {**known, "scores": scores, "labels": {"serving": labels} if len(labels) == len(scores) else {}}
