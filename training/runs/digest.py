"""What a stage's outcome follows from, kept in its folder: ``stage.json``, written when the stage first starts.

It has the stage's keys, the seed, and a digest of everything that the keys name: data files, the pictures of their
rows, checkpoints. A stage that is started again is compared with it, so that a recipe that was edited, or data that
were, never go unnoticed. Keys that change nothing about the outcome (`FREE`) are left out.

How files are read: each is hashed whole, once (SHA-256). What is noted beside the digest are sizes and times of last
change; while these stay as they are, no file is read again. Of a picture the size and the first 64 KiB are hashed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, cast

from cos.evaluation.files import LOCK
from cos.evaluation.provenance import commit
from cos.search.errors import InputError
from cos.training.config.overrides import concerns
from cos.training.config.recipe import Recipe, StageConfig, folder_name
from cos.training.config.references import ROWS, Reference, references
from cos.training.runs.folder import (
    DONE,
    MODEL,
    StageContext,
    disk_errors,
    free_lock,
    replacing,
    take_lock,
)

STAGE = "stage.json"
FREE = frozenset(
    {
        "name",
        "stage",
        "log_every",
        "save_every",
        "compile",
        "gradient_checkpointing",
        "concurrency",
        "timeout_s",
        "retries",
        "key_env",
        "failed_at_most",
        "workers",
        "report_to",
    }
)
"""Keys that say how a stage works and not what comes out. They may change at any time."""
PICTURE_BYTES = 64 << 10
"""How much of a picture is hashed."""

Fresh = Literal["never", "changed", "always"]
"""When a stage that was begun before begins again: never, if its keys or inputs have changed, or in any case."""


@dataclass(frozen=True, slots=True)
class Input:
    """Digests of the files behind one name."""

    stamp: str
    """Of their paths, sizes and times of last change: cheap."""
    content: str
    """Of what is in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """What a stage's outcome follows from."""

    stage: str
    keys: dict[str, Any]
    """All keys but the free ones, and the recipe's seed."""
    inputs: dict[str, Input]
    """By key and name: ``data rows.jsonl``; the pictures of rows as ``pictures of rows.jsonl``."""
    overrides: tuple[str, ...] = ()
    """What was given by --set; for the reader, as ``keys`` has it already."""
    made_by: dict[str, str] = field(default_factory=dict[str, str])
    """The stage that wrote an input, where one did."""
    given: dict[str, Any] = field(default_factory=dict[str, Any])
    """Those of the keys that are not at their default: a key that a later version adds changes nothing by itself."""

    @property
    def digest(self) -> str:
        """One digest of keys and inputs: 16 hex digits."""
        content = {"keys": self.keys, "inputs": {name: one.content for name, one in self.inputs.items()}}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def begin(
    recipe: Recipe,
    stage: StageConfig,
    context: StageContext,
    *,
    fresh: Fresh = "never",
    overrides: Sequence[str] = (),
) -> StageContext:
    """Compares a stage with what it was begun with and writes ``stage.json``; gives the context with the digest.

    What a stage has made is removed only where ``fresh`` says that it begins again. A stage that has kept nothing yet
    takes new keys as they are. Of several ranks the first one alone is to call it.

    Errors: InputError for a stage that is done or was interrupted, and whose keys or inputs have changed: names each
    with its old and new value.
    """
    path = context.folder / STAGE
    check_own(context.folder)
    before = None if fresh == "always" else read_record(path)
    now = record_of(recipe, stage, before, overrides)
    changed = [] if before is None else changes(before, now)
    kept = has_progress(context.folder)
    if kept and changed and fresh == "never":
        raise InputError(_changed_message(context, stage, changed), "recipe")
    if fresh == "always" or (fresh == "changed" and changed):
        empty(context.folder)
    elif changed and not kept:
        (context.folder / "metrics.jsonl").unlink(missing_ok=True)
    if before is not None and context.is_done:
        now = _with_those_gone(before, now)
    if now != before and (before is not None or not context.is_done):
        try:
            _write(path, now)
        except InputError:
            # Of a stage that is done, times of last change alone are noted anew: it may stand where nobody can write.
            if not context.is_done:
                raise
    return replace(context, digest=now.digest)


def _write(path: Path, record: StageRecord) -> None:
    """Errors: InputError while another run holds the folder: it goes by the record that stands there."""
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        take_lock(path.parent)
        try:
            with replacing(path) as file:
                facts = {"commit": commit(), "digest": record.digest, **asdict(record)}
                file.write(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        finally:
            free_lock(path.parent)


def _changed_message(context: StageContext, stage: StageConfig, changed: Sequence[str]) -> str:
    how = "is done" if context.is_done else "was interrupted"
    return (
        f"stage {folder_name(stage)!r} {how}, and its keys or inputs have changed since it began:\n  "
        + "\n  ".join(changed)
        + f"\nChange them back, give the stage another name, or begin it again with --fresh, which removes what it "
        f"has written into {context.folder}"
    )


def has_progress(folder: Path) -> bool:
    """Whether a stage's folder has anything that would go on, or be taken for the outcome, of what is run now."""
    kept = (DONE, MODEL, "checkpoint-*", "*.journal", "round-*")
    return any(next(folder.glob(pattern), None) is not None for pattern in kept)


OUTPUTS = (
    *(DONE, STAGE, MODEL, "best", "adapters", "checkpoint-*", "round-*", "*.journal", ".*"),
    *("metrics.jsonl", "metrics.png", "skipped.txt", "tensorboard", "images", "evaluation.json"),
    *("chains.jsonl", "problems.jsonl", "pairs.jsonl", "scored.jsonl", "heads.safetensors", "reliability.png"),
)
"""What stages write into their folders, by name."""


def is_output(name: str) -> bool:
    """Whether something of that name in a stage's folder is what stages write."""
    return name == LOCK or any(fnmatchcase(name, pattern) for pattern in OUTPUTS)


def check_own(folder: Path) -> None:
    """Errors: InputError for a folder in which no stage has begun and which holds what no stage writes: it is
    somebody's own, and what a stage writes might take the place of what is there."""
    if any((folder / name).exists() for name in (STAGE, DONE, LOCK)):
        return
    foreign = sorted(entry.name for entry in folder.iterdir() if not is_output(entry.name)) if folder.is_dir() else []
    if foreign:
        raise InputError(
            f"{folder} is to be a stage's folder and holds what no stage writes, such as {foreign[0]!r}; give the "
            "stage another name, or the recipe another runs folder",
            "name",
        )


def empty(folder: Path) -> None:
    """Removes what a stage has made; what no stage writes stays. Errors: InputError while another run holds the folder,
    and for one that cannot be written to."""
    if not folder.is_dir():
        return
    with disk_errors(folder):
        take_lock(folder)
        try:
            # The end goes first: what is half removed is never taken for done.
            (folder / DONE).unlink(missing_ok=True)
            for entry in folder.iterdir():
                if entry.name == LOCK or not is_output(entry.name):
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        finally:
            free_lock(folder)


def check_unchanged(recipe: Recipe, stage: StageConfig, context: StageContext) -> None:
    """Compares a stage that has just ended with what it was begun with.

    Errors: InputError where inputs have changed while it ran: it is not marked as done, as nobody can say of what it
    was made.
    """
    before = read_record(context.folder / STAGE)
    changed = [] if before is None else changes(before, record_of(recipe, stage, before, before.overrides))
    if changed:
        (context.folder / DONE).unlink(missing_ok=True)
        raise InputError(
            f"stage {folder_name(stage)!r}: while it ran, its inputs have changed:\n  "
            + "\n  ".join(changed)
            + "\nWhat it made is of the old ones or of a mixture; begin it again with --fresh",
            "recipe",
        )


def read_record(path: Path) -> StageRecord | None:
    """What a stage was begun with; None where nothing says so. Errors: InputError naming a file that cannot be read."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return StageRecord(
            stage=str(found["stage"]),
            keys=dict(found["keys"]),
            inputs={str(name): Input(one["stamp"], one["content"]) for name, one in found["inputs"].items()},
            overrides=tuple(found["overrides"]),
            made_by=dict(found["made_by"]),
            given=dict(found["given"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({error!r}), so that nothing tells what the stage was begun with; remove the file, "
            "or begin the stage again with --fresh",
            "runs",
        ) from error


def record_of(
    recipe: Recipe, stage: StageConfig, before: StageRecord | None = None, overrides: Sequence[str] = ()
) -> StageRecord:
    """What a stage's outcome follows from as things are now. ``before`` saves reading files that have not changed."""
    found = {f"{one.key} {one.name}": one for one in references(recipe, stage)}
    known: Mapping[str, Input] = {} if before is None else before.inputs
    inputs: dict[str, Input] = {}
    for name, one in found.items():
        # Pictures are looked at as rows name them: their folder may hold many more.
        for what, paths, most in () if one.to == "images" else _files(name, one):
            inputs[what] = input_of(paths, known.get(what), most)
    return StageRecord(
        stage=stage.stage,
        keys={"seed": recipe.seed, **_bound(stage.model_dump(mode="json"))},
        inputs=inputs,
        overrides=tuple(text for text in overrides if concerns(text, stage)),
        made_by={name: one.maker for name, one in found.items() if one.maker is not None},
        given={"seed": recipe.seed, **_bound(stage.model_dump(mode="json", exclude_defaults=True))},
    )


def _bound(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keys without the free ones, at any depth."""
    return {
        key: _bound(cast("dict[str, Any]", value)) if isinstance(value, dict) else value
        for key, value in keys.items()
        if key not in FREE
    }


def _files(name: str, one: Reference) -> Iterator[tuple[str, list[Path], int | None]]:
    """The files behind a reference: what they are called, their paths, and how much of each is hashed."""
    if one.state == "here" and one.path.is_dir():
        yield name, _plain(one.path.iterdir() if one.to == "checkpoint" else one.path.rglob("*")), None
    elif one.state == "here":
        yield name, [one.path], None
        if one.to in ROWS:
            yield f"pictures of {one.name}", pictures_of(one.path, one.images), PICTURE_BYTES


def _plain(entries: Iterable[Path]) -> list[Path]:
    return sorted(entry for entry in entries if entry.is_file() and not entry.name.startswith("."))


def input_of(paths: Sequence[Path], before: Input | None = None, most_bytes: int | None = None) -> Input:
    """Digests of files; ``before``'s content is taken while path, size and time of last change of all are the same.
    Missing files count as missing. ``most_bytes``: how much of each is hashed, all unless given."""
    stamp = hashlib.sha256()
    for path in paths:
        stamp.update(_bytes(f"{path}\0{_stamp(path)}\n"))
    if before is not None and before.stamp == stamp.hexdigest():
        return before
    content = hashlib.sha256()
    for path in paths:
        content.update(_bytes(f"{path.name}\0{_content(path, most_bytes)}\n"))
    return Input(stamp.hexdigest(), content.hexdigest())


def _bytes(text: str) -> bytes:
    """A name in a row may be any string of JSON, half a surrogate pair included."""
    return text.encode(errors="surrogatepass")


def _stamp(path: Path) -> str:
    try:
        found = path.stat()
    except (OSError, ValueError):  # a ValueError for a name that no file can have
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"


def _content(path: Path, most_bytes: int | None) -> str:
    try:
        with path.open("rb") as file:
            if most_bytes is None:
                return hashlib.file_digest(file, "sha256").hexdigest()
            return f"{path.stat().st_size} {hashlib.sha256(file.read(most_bytes)).hexdigest()}"
    except (OSError, ValueError):
        return "missing"


def pictures_of(path: Path, images: Path | None = None) -> list[Path]:
    """The pictures that the rows of a JSONL file name, each once, in order; ``images``: the folder they are below,
    where that is not the file's. Lines that are no rows are passed over: who
    reads the rows tells them."""
    found: dict[str, None] = {}
    with path.open("rb") as file:
        for line in file:
            try:
                row: Any = json.loads(line)
                image = row["image"] if "image" in row else row["problem"]["image"]
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            for one in cast("list[Any]", image) if isinstance(image, list) else [image]:
                if isinstance(one, str):
                    found[one] = None
    return [(images or path.parent) / name for name in found]


def changes(before: StageRecord, now: StageRecord) -> list[str]:
    """What differs between two records, a line each, with old and new value. What a stage was made from and is not
    there any more is no change."""
    differences = [f"stage: {before.stage} -> {now.stage}"] if before.stage != now.stage else []
    differences += _keys("", before.keys, now.keys, now.given)
    for name, one in now.inputs.items():
        old = before.inputs.get(name)
        # A name that is new shows in its key.
        if old is not None and old.content != one.content:
            maker = now.made_by.get(name) or before.made_by.get(name)
            why = f": the stage {maker!r} was run again" if maker is not None else ""
            have = "have" if name.startswith("pictures of ") else "has"
            differences.append(f"{name} {have} changed{why}")
    return differences


def _keys(place: str, before: Any, now: Any, given: Any) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        old, new = cast("dict[str, Any]", before), cast("dict[str, Any]", now)
        set_here = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
        for key in {**old, **new}:
            if key in old or key in set_here:
                yield from _keys(f"{place}.{key}" if place else key, old.get(key), new.get(key), set_here.get(key))
    elif before != now:
        yield f"{place}: {_shown(before)} -> {_shown(now)}"


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)


def _with_those_gone(before: StageRecord, now: StageRecord) -> StageRecord:
    """The record with the inputs that a stage that is done was made from and that are not there any more."""
    return replace(now, inputs={**before.inputs, **now.inputs}, made_by={**before.made_by, **now.made_by})
