"""What passes between stages: problems, chains and pairs, one JSON object a line.

Pictures' paths in a file are absolute or relative to the file's folder; once read they are absolute. A file is written
beside and renamed, so it is there whole or not at all.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import Field, TypeAdapter, ValidationError

from cos.search.errors import InputError
from cos.search.grammar import render_segments
from cos.search.types import Step
from cos.training.folder import replacing
from cos.training.ledger import Problem
from cos.training.mnist import Split

Source = Literal["exact", "monte_carlo", "judge", "serving"]
"""Who labelled: the ledger's exact checker, continuations by a policy, a judging model, or the PRM of a search."""

MOST_BYTES = 1 << 20
"""Longest line that is read, bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemRow:
    """A question about a picture, and its gold answer."""

    id: str
    image: str
    """Path of the picture: absolute, or relative to the folder of the JSONL file."""
    question: str
    answer: str
    digits: Split | None = None
    """Which set of digits drew the picture; None for other pictures."""
    meta: dict[str, Any] = field(default_factory=dict[str, Any])
    """What else is known; for a ledger what `ledger_problem` needs."""


@dataclass(frozen=True, slots=True)
class TagLabel:
    """What is taught at one tag."""

    soft: Annotated[float, Field(ge=0, le=1)]
    """P(good)."""
    hard: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRow:
    """One chain for one problem, and what is known about it. S steps have S + 1 tags, the answer's last."""

    id: str
    """"<problem id>/<number>"."""
    problem: ProblemRow
    steps: tuple[Step, ...]
    answer: str
    right: bool | None = None
    """Whether the answer equals gold; None where nobody looked."""
    labels: dict[Source, tuple[TagLabel, ...]] = field(default_factory=dict[Source, tuple[TagLabel, ...]])
    """Labels of every tag, by who gave them."""
    scores: tuple[float | None, ...] | None = None
    """A PRM's score of every tag; None for an unscored one, or for all."""
    logprob: float | None = None
    """The policy's own log-probability of the whole chain, nats."""

    def __post_init__(self) -> None:
        """Errors: ValueError when labels or scores do not line up with the tags."""
        counts = {f"labels by {source!r}": len(labels) for source, labels in self.labels.items()}
        counts |= {} if self.scores is None else {"scores": len(self.scores)}
        for what, count in counts.items():
            if count != len(self.steps) + 1:
                raise ValueError(
                    f"{count} {what} for {len(self.steps) + 1} tags ({len(self.steps)} steps and the answer)"
                )

    @property
    def segments(self) -> list[str]:
        """The chain as the policy writes it, cut where tags go."""
        return render_segments(self.steps, self.answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A chain of a pair: what was written, nothing of what was thought of it."""

    id: str
    steps: tuple[Step, ...]
    answer: str

    @property
    def segments(self) -> list[str]:
        """The chain as the policy writes it."""
        return render_segments(self.steps, self.answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """Two chains for one problem, the better one first."""

    problem: ProblemRow
    chosen: Written
    rejected: Written
    chosen_score: float
    rejected_score: float

    @property
    def id(self) -> str:
        """Names both chains."""
        return f"{self.chosen.id} > {self.rejected.id}"


Row = TypeVar("Row", ProblemRow, ChainRow, PairRow)


def ledger_problem(row: ProblemRow) -> Problem:
    """The ledger behind a problem. Errors: InputError when there is none."""
    try:
        meta = cast("Mapping[str, Any]", row.meta)
        first, second = meta.get("pair", (0, 0))
        return Problem(tuple(str(r) for r in meta["rows"]), meta["kind"], (first, second), int(meta.get("limit", 0)))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"problem {row.id!r} is no ledger (its meta lacks rows and kind): only ledgers have exact labels",
            "problems",
        ) from error


def ledger_meta(problem: Problem) -> dict[str, Any]:
    """What `ledger_problem` reads."""
    return {"rows": list(problem.rows), "kind": problem.kind, "pair": list(problem.pair), "limit": problem.limit}


def read_rows(
    path: str | Path,
    kind: type[Row],
    *,
    skip_bad: bool = False,
    skipped: list[str] | None = None,
    places: list[str] | None = None,
    most_bytes: int = MOST_BYTES,
) -> Iterator[Row]:
    """The rows of a JSONL file, one at a time. A file of chains may also be conversations as ShareGPT-Step-300K has
    them (`cos.training.sharegpt`).

    Errors: InputError naming file and line for one that is corrupt, truncated, longer than ``most_bytes`` or a
    duplicate (same id as an earlier one), and when the file is missing. With ``skip_bad`` such lines are counted and
    left out, and the count is logged at the end, or, where a list ``skipped`` is given, their messages are appended to
    it. ``places``: a list that gets ``file:line`` of every row before the row is yielded.
    """
    path = Path(path)
    seen: dict[str, int] = {}
    bad: list[str] = []
    for number, line in _lines(path, most_bytes):
        try:
            row = _parse(kind, path, line, most_bytes)
            if row.id in seen:
                raise ValueError(f"id {row.id!r} is on line {seen[row.id]} already")
        except ValueError as error:
            message = f"{path}:{number}: {error}"
            if not skip_bad:
                raise InputError(f"{message}; mend or remove the line, or give --skip-bad", "data") from error
            bad.append(message)
            continue
        seen[row.id] = number
        if places is not None:
            places.append(f"{path}:{number}")
        yield row
    if skipped is not None:
        skipped += bad
    elif bad:
        logging.getLogger(__name__).warning("%s: %d bad lines skipped; the first: %s", path, len(bad), bad[0])


def write_rows(path: str | Path, rows: Iterable[ProblemRow | ChainRow | PairRow]) -> int:
    """Writes rows as JSONL and gives their number. Pictures beside or below the file's folder get relative paths."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with replacing(path) as file:
        for row in rows:
            problem = row if isinstance(row, ProblemRow) else row.problem
            own = asdict(row)
            (own if isinstance(row, ProblemRow) else own["problem"])["image"] = _from(path.parent, problem.image)
            file.write(json.dumps(own, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def _from(folder: Path, image: str) -> str:
    """A picture's path as seen from ``folder``: relative if it stands below the folder or one beside it."""
    folder = folder.resolve()
    if not os.path.isabs(image) or not Path(image).is_relative_to(folder.parent):
        return image
    return os.path.relpath(image, folder)


def _lines(path: Path, most_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank; of an over-long one only the beginning."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; run the stage that writes it", "data") from error
    with file:
        number = 0
        while line := file.readline(most_bytes + 1):
            number += 1
            rest = line
            while not rest.endswith(b"\n") and (rest := file.readline(most_bytes)):
                pass
            if line.strip():
                yield number, line


def _parse(kind: type[Row], path: Path, line: bytes, most_bytes: int) -> Row:
    """Errors: ValueError saying what is wrong with the line."""
    if len(line) > most_bytes:
        raise ValueError(f"the line is longer than {most_bytes} bytes")
    try:
        found = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        cut = "" if line.endswith(b"\n") else " (it ends without a newline: the file was cut off?)"
        raise ValueError(f"not JSON: {error}{cut}") from error
    if kind is ChainRow and isinstance(found, dict) and "conversations" in found:
        from cos.training.sharegpt import chain_of

        return cast(Row, _placed(cast(Any, chain_of(cast("dict[str, Any]", found))), path))
    try:
        return cast(Row, _placed(_adapter(kind).validate_json(line, strict=True), path))
    except ValidationError as error:
        raise ValueError("; ".join(_complaints(error))) from error


def _complaints(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False)[:3]:
        place = ".".join(str(part) for part in problem["loc"])
        yield f"{place}: {problem['msg']}" if place else problem["msg"].removeprefix("Value error, ")


@lru_cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _placed(row: ProblemRow | ChainRow | PairRow, path: Path) -> ProblemRow | ChainRow | PairRow:
    """The same row with an absolute path of its picture."""
    if isinstance(row, ProblemRow):
        return replace(row, image=os.path.normpath(path.parent.resolve() / row.image))
    return replace(row, problem=cast(ProblemRow, _placed(row.problem, path)))
