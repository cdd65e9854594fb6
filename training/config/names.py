"""How a recipe names things: stages and their folders, and the checkpoints and files that stages start from.

A key that names something says so in its type, so that all of them can be found in any stage.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel

Split = Literal["policy", "prm", "evaluation"]
"""The sets that a generated task draws its pictures from. No two have a picture's part in common."""

Thing = Literal["checkpoint", "chains", "pairs", "problems", "file", "folder", "images"]
"""What is named: a checkpoint (folder or hub name), a JSONL file of rows, another file, a folder, or the folder that
rows' pictures are below."""


@dataclass(frozen=True, slots=True)
class Refers:
    """Marks a key's type: its value names something of this kind."""

    to: Thing


Checkpoint = Annotated[str, Refers("checkpoint")]
ChainFile = Annotated[str, Refers("chains")]
PairFile = Annotated[str, Refers("pairs")]
ProblemFile = Annotated[str, Refers("problems")]
OtherFile = Annotated[str, Refers("file")]
Folder = Annotated[str, Refers("folder")]
ImageFolder = Annotated[str, Refers("images")]


@dataclass(frozen=True, slots=True)
class Named:
    """One thing that a stage's keys name."""

    key: str
    """The key, with those it stands below: ``problems.data``."""
    name: str
    to: Thing
    by: BaseModel
    """The section that names it."""


def named_in(keys: BaseModel, below: str = "") -> Iterator[Named]:
    """Everything that a section of a recipe names, in the order of its keys. What is the ``path`` of a section goes by
    the section's own key."""
    for key in type(keys).model_fields:
        mark = _mark_of(type(keys), key)
        given = getattr(keys, key)
        for value in given if isinstance(given, tuple) else (given,):
            if isinstance(value, BaseModel):
                yield from named_in(value, f"{below}{key}.")
            elif isinstance(value, str) and mark is not None:
                yield Named(below.removesuffix(".") if key == "path" else below + key, value, mark.to, keys)


Section = TypeVar("Section", bound=BaseModel)


def renamed(keys: Section, name_of: Callable[[str], str]) -> Section:
    """A section that names everything otherwise."""

    def new(key: str, value: Any) -> Any:
        if isinstance(value, BaseModel):
            return renamed(value, name_of)
        return name_of(value) if isinstance(value, str) and _mark_of(type(keys), key) is not None else value

    def all_new(key: str) -> Any:
        given: Any = getattr(keys, key)
        return tuple(new(key, one) for one in given) if isinstance(given, tuple) else new(key, given)

    return keys.model_copy(update={key: all_new(key) for key in keys.model_fields_set})


def _mark_of(section: type[BaseModel], key: str) -> Refers | None:
    field = section.model_fields[key]
    return next((one for one in field.metadata if isinstance(one, Refers)), None) or _mark(field.annotation)


def _mark(annotation: Any) -> Refers | None:
    """The mark within a type such as ``tuple[ChainFile, ...]`` or ``Checkpoint | None``."""
    for part in (*getattr(annotation, "__metadata__", ()), *get_args(annotation)):
        if isinstance(part, Refers):
            return part
        if (found := _mark(part)) is not None:
            return found
    return None


_FOLDER_NAME = re.compile(r"[A-Za-z0-9._-]+")


def _own_folder(name: str) -> str:
    if not _FOLDER_NAME.fullmatch(name) or not name.strip("."):
        raise ValueError(
            "a name is a folder's: give letters, digits, '.', '_' and '-', and not dots alone "
            "(no slash, no space, not empty)"
        )
    return name


FolderName = Annotated[str, AfterValidator(_own_folder)]
"""A name that can only be that of a folder below another one."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is meant, if one is near: spelt alike (``stf`` for ``sft``), with the same digits
    (``InternVL-8B`` is no slip of ``InternVL-38B``), or shortened to its initials (``lr`` for ``learning_rate``)."""
    known = list(known)
    swapped = [one for one in known if sorted(one) == sorted(name)]
    alike = [*swapped, *difflib.get_close_matches(name, known, n=3, cutoff=0.75)]
    same = [one for one in alike if _digits(one) == _digits(name)]
    short = [one for one in known if "_" in one and "".join(word[:1] for word in one.split("_")) == name]
    return next(iter([*same, *short]), None)


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: what is near, or nothing."""
    found = nearest(name, known)
    return "" if found is None else f"; did you mean {found!r}?"


def _digits(name: str) -> list[str]:
    return re.findall(r"\d+", name)
