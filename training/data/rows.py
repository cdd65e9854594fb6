"""What passes between stages: problems, chains and pairs, one JSON object a line.

A row's steps are those of the CoS format, whatever wrote them (`cos.training.data.pieces`): this is a part of the
trainer that knows CoS. Pictures' paths in a file are absolute or relative to a folder, by default the file's own; once
read they are absolute. A file is written under a temporary name and renamed: it is there whole or not at all.

What is read is JSON as its standard has it: NaN and Infinity, a key that stands twice in one object, a key that nobody
reads (what else is known about a problem belongs into its ``meta``) and every type other than the declared one are
errors of their line. A byte-order mark is read past.
"""

from __future__ import annotations

import codecs
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from cos.evaluation.files import replacing
from cos.search.errors import InputError
from cos.search.grammars.cos import Step, render_segments
from cos.training.config.names import Split

Source = Literal["exact", "monte_carlo", "judge", "serving", "published"]
"""Who labelled: the ledger's exact checker, continuations by a policy, a judging model, the PRM of a search, or whoever
made a published file (`cos.training.data.sharegpt`)."""

MOST_BYTES = 1 << 20
"""Longest line that is read, bytes."""
ONLY_DECLARED = ConfigDict(extra="forbid")
"""How rows are read: a key that no field has is an error. It holds for the rows within a row, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemRow:
    """A question, the picture that it is about if there is one, and its gold answer."""

    __pydantic_config__: ClassVar = ONLY_DECLARED

    id: str
    image: str | None = None
    """Path of the picture: absolute, or relative to the folder of the JSONL file. None: the question is all there is to
    see."""
    question: str
    answer: str
    """Gold; empty where it is not known."""
    digits: Split | None = None
    """Which set of digits drew the picture; None for other pictures."""
    meta: dict[str, Any] = field(default_factory=dict[str, Any])
    """What else is known; for a generated problem what its task needs to check chains."""

    def __post_init__(self) -> None:
        """Errors: ValueError for a problem that nothing names or that asks nothing."""
        for what, text in (("id", self.id), ("question", self.question)):
            if not text.strip():
                raise ValueError(f"{what}: empty; give the problem one")


@dataclass(frozen=True, slots=True)
class TagLabel:
    """What is taught at one tag."""

    soft: Annotated[float, Field(ge=0, le=1)]
    """P(good)."""
    hard: bool


Labels = tuple[TagLabel | None, ...]
"""One a tag; None for a tag of which its source says nothing."""


GOOD = TagLabel(1.0, True)
BAD = TagLabel(0.0, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRow:
    """One chain for one problem, and what is known about it. S steps have S + 1 tags, the answer's last."""

    __pydantic_config__: ClassVar = ONLY_DECLARED

    id: str
    """"<problem id>/<number>"."""
    problem: ProblemRow
    steps: tuple[Step, ...]
    answer: str
    right: bool | None = None
    """Whether the answer equals gold; None where nobody looked."""
    labels: dict[Source, Labels] = field(default_factory=dict[Source, Labels])
    """Labels by who gave them, one a tag."""
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
        for source, labels in self.labels.items():
            if all(label is None for label in labels):
                raise ValueError(f"labels by {source!r} are all null; leave {source!r} out where it says nothing")

    @property
    def segments(self) -> list[str]:
        """The chain as the policy writes it, cut where tags go."""
        return render_segments(self.steps, self.answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedChain:
    """One chain of a preference pair, without labels or scores."""

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

    __pydantic_config__: ClassVar = ONLY_DECLARED

    problem: ProblemRow
    chosen: PairedChain
    rejected: PairedChain
    chosen_score: float
    rejected_score: float

    @property
    def id(self) -> str:
        """Names both chains."""
        return f"{self.chosen.id} > {self.rejected.id}"


Row = TypeVar("Row", ProblemRow, ChainRow, PairRow)


Reader = Callable[[Mapping[str, Any], str], Sequence[ChainRow]]
"""Makes chains of a line; its text is put into their ids. Errors: ValueError saying what is wrong with the line."""


def read_rows(
    path: str | Path,
    kind: type[Row],
    *,
    skip_bad: bool = False,
    skipped: list[str] | None = None,
    images: Path | None = None,
    places: list[str] | None = None,
    reader: Reader | None = None,
    most_bytes: int = MOST_BYTES,
) -> Iterator[Row]:
    """The rows of a JSONL file, one at a time. A file of chains may also hold conversations as ShareGPT-Step-300K and
    the release's PRM data have them (`cos.training.data.sharegpt`). ``images``: the folder that pictures' paths are
    relative to, where it is not the file's.

    Errors: InputError naming file and line for one that is corrupt, truncated, longer than ``most_bytes`` or a
    duplicate (same id as an earlier one), and when the file is missing. With ``skip_bad`` such lines are left out, and
    their number is logged at the end, or, where a list ``skipped`` is given, what is wrong with each (``file:line:
    why``) is appended to it. ``places``: a list that gets ``file:line`` of every row before the row is yielded.
    ``reader``: makes chains of a line that has another layout.
    """
    path = Path(path)
    folder = (path.parent if images is None else images).resolve()
    seen: dict[str, int] = {}
    bad: list[str] = []
    for number, line in _lines(path, most_bytes):
        try:
            rows = _parse(kind, folder, line, most_bytes, reader, f"{path.stem}-{number}")
            if again := next((row.id for row in rows if row.id in seen), None):
                raise ValueError(f"id {again!r} is on line {seen[again]} already")
        except ValueError as error:
            message = f"{path}:{number}: {error}"
            if not skip_bad:
                raise InputError(f"{message}; mend or remove the line, or give --skip-bad", "data") from error
            bad.append(message)
            continue
        for row in rows:
            seen[row.id] = number
            if places is not None:
                places.append(f"{path}:{number}")
            yield row
    if skipped is not None:
        skipped += bad
    elif bad:
        logging.getLogger(__name__).warning("%s: %d bad lines skipped; the first: %s", path, len(bad), bad[0])


def holds_chains(path: Path) -> bool:
    """Whether a JSONL file is one of chains, by its first line that is an object. A file that cannot be read as such is
    left to `read_rows`, which says what is wrong."""
    try:
        for _, line in _lines(path, MOST_BYTES):
            try:
                found = _object_of(line)
            except ValueError:
                continue
            return not {"problem", "conversations"}.isdisjoint(found)
    except InputError:
        pass
    return False


def check_gold(problems: Iterable[ProblemRow]) -> None:
    """Errors: InputError naming a problem whose gold answer is not known."""
    for problem in problems:
        if not problem.answer:
            raise InputError(
                f"problem {problem.id!r} has no gold answer, which is needed here; published chains that end wrong and "
                "chains of stored traces have none: give problems with their answers",
                "problems",
            )


def write_rows(path: str | Path, rows: Iterable[ProblemRow | ChainRow | PairRow]) -> int:
    """Writes rows as JSONL and gives their number. Pictures beside or below the file's folder get relative paths."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with replacing(path) as file:
        for row in rows:
            problem = row if isinstance(row, ProblemRow) else row.problem
            own = asdict(row)
            asked = own if isinstance(row, ProblemRow) else own["problem"]
            asked["image"] = problem.image and _from(path.parent, problem.image)
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


def _parse(kind: type[Row], folder: Path, line: bytes, most_bytes: int, reader: Reader | None, name: str) -> list[Row]:
    """Errors: ValueError saying what is wrong with the line."""
    if len(line) > most_bytes:
        raise ValueError(f"the line is longer than {most_bytes} bytes")
    found = _object_of(line)
    if kind is ChainRow and reader is not None:
        return [cast(Row, _placed(cast(Any, row), folder)) for row in reader(found, name)]
    if kind is ChainRow and "conversations" in found:
        from cos.training.data.sharegpt import chain_of

        return [cast(Row, _placed(cast(Any, chain_of(found)), folder))]
    try:
        return [cast(Row, _placed(_adapter(kind).validate_json(_unmarked(line), strict=True), folder))]
    except ValidationError as error:
        raise ValueError("; ".join(_complaints(error))) from error


def _unmarked(line: bytes) -> bytes:
    """A line without a byte-order mark, which editors put before the first, and joining files before others."""
    return line.removeprefix(codecs.BOM_UTF8)


def _object_of(line: bytes) -> dict[str, Any]:
    """A line as a JSON object. Errors: ValueError saying what is wrong with it."""
    try:
        found: object = json.loads(
            _unmarked(line).decode(), object_pairs_hook=_without_twins, parse_constant=_refuse, parse_float=_finite
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error}); save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        cut = "" if line.endswith(b"\n") else " (it ends without a newline: the file was cut off?)"
        raise ValueError(f"not JSON: {error}{cut}") from error
    except RecursionError as error:
        raise ValueError("lists or objects stand too deep in each other") from error
    if not isinstance(found, dict):
        raise ValueError(f"a JSON object is needed, not {kind_of(found)}; a file holds one object a line")
    if b"\\ud" in line.lower():
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("half a surrogate pair is no character; write the file as UTF-8") from error
    return cast("dict[str, Any]", found)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twin, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"key {twin!r} stands twice in one object")
    return found


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no number; give one, or null where it is not known")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def kind_of(value: object) -> str:
    """What a value of JSON is, as errors name it."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return "text" if value.strip() else "empty text"
    kinds: dict[type, str] = {bool: "true or false", dict: "an object", list: "a list"}
    return kinds.get(type(value), "a number")


def _complaints(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False)[:3]:
        place = ".".join(str(part) for part in problem["loc"])
        unknown = problem["type"] == "unexpected_keyword_argument"
        message = "no such key; notes belong into a problem's meta" if unknown else problem["msg"]
        yield f"{place}: {message}" if place else message.removeprefix("Value error, ")


@lru_cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _placed(row: ProblemRow | ChainRow | PairRow, folder: Path) -> ProblemRow | ChainRow | PairRow:
    """The same row with an absolute path of its picture."""
    if isinstance(row, ProblemRow):
        return row if row.image is None else replace(row, image=os.path.normpath(folder / row.image))
    return replace(row, problem=cast(ProblemRow, _placed(row.problem, folder)))
