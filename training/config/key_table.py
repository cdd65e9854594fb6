"""The keys of a recipe as tables: their names, defaults, meanings and where the defaults come from."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.table import Table

from cos.search.errors import InputError
from cos.training.config import conversion, keys, recipe
from cos.training.config.section import Keys
from cos.training.data import sources

PAPER, RELEASE = "paper", "release"
"""arXiv 2509.19003, and the code its authors released (baaivision/CoS)."""
SOURCES = {
    "every stage that trains": {
        "max_tokens": PAPER,
        "train_projector": PAPER,
        "train_text": PAPER,
        "train_vision": PAPER,
        "warmup_share": PAPER,
        "weight_decay": PAPER,
    },
    "label": {"continuations": PAPER, "temperature": PAPER, "top_p": PAPER},
    "pairs": {"reward": PAPER, "step_weight": PAPER},
    "preferences": {"beta": PAPER, "nll_weight": RELEASE},
    "prm": {"answer_weight": RELEASE, "target": RELEASE},
    "rollout": {"each": PAPER, "temperature": PAPER, "top_p": PAPER},
    "rounds": {"rounds": PAPER, "weights": RELEASE},
}
"""Where a default comes from that is not ours: by the table, then by the key."""
TITLES: dict[type[Keys], str] = {
    recipe.Recipe: "recipe",
    keys.StageKeys: "every stage",
    keys.TrainingKeys: "every stage that trains",
    keys.PreferenceKeys: "preferences",
    keys.JudgingKeys: "judging layers",
    keys.LoraKeys: "lora",
    keys.JudgeKeys: "judge",
    conversion.ShapeKeys: "shape",
    keys.LedgerSource: "ledger",
    sources.RowKeys: "rows of files",
    sources.FileKeys: "file",
    sources.WeightKeys: "file among others",
    sources.ChainSource: "file of chains",
    sources.MixedChains: "file of chains among others",
    sources.MixedPairs: "file of pairs among others",
    sources.MixKeys: "mixing",
    keys.FailureKeys: "work that may fail",
    keys.RateKeys: "learning_rates",
    keys.ValidationKeys: "validation",
    keys.VerdictKeys: "verdicts",
    keys.ProblemSource: "problems",
}
"""Names of tables that are no stage's."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key."""

    name: str
    default: str
    meaning: str
    source: str
    """``paper``, ``release`` or ``ours``; empty where there is no default."""


@dataclass(frozen=True, slots=True)
class KeyTable:
    """The keys that a section has of its own; those of ``shared`` tables come on top."""

    name: str
    summary: str
    rows: tuple[KeyRow, ...]
    shared: tuple[str, ...]
    """Names of the tables whose keys it has, too."""


def key_tables() -> tuple[KeyTable, ...]:
    """The recipe's own table, one a stage, and those that several share, in the order in which they are read."""
    found: list[type[Keys]] = [recipe.Recipe]
    for stage in recipe.stage_kinds().values():
        found += [kind for kind in _with_sections(stage) if kind not in found]
    return tuple(_table(kind) for kind in found)


def tables_of(stage: str) -> tuple[KeyTable, ...]:
    """The tables of one stage: its own, those it shares, and its sections'. Errors: InputError for no stage's name."""
    kinds = recipe.stage_kinds()
    if stage not in kinds:
        raise InputError(f"there is no stage {stage!r}; there are {', '.join(kinds)}", "stage")
    return tuple(map(_table, dict.fromkeys(_with_sections(kinds[stage]))))


def as_markdown(tables: Sequence[KeyTable]) -> str:
    """Tables for a page, one under the other."""
    return "\n\n".join(_markdown(table) for table in tables) + "\n"


def print_tables(tables: Sequence[KeyTable]) -> None:
    """Prints tables as wide as the terminal is."""
    console = Console()
    for table in tables:
        shown = Table(
            "key", "default", "from", "meaning", title=table.name, title_justify="left", caption_justify="left"
        )
        shown.caption = f"and the keys of: {', '.join(table.shared)}" if table.shared else None
        for row in table.rows:
            shown.add_row(*(cell.replace("`", "") for cell in (row.name, row.default, row.source, row.meaning)))
        console.print(shown)


def _markdown(table: KeyTable) -> str:
    shared = f" Beside these it has the keys of {_listed(table.shared)}." if table.shared else ""
    lines = [f"### `{table.name}`", "", f"{table.summary}{shared}"]
    if table.rows:
        lines += ["", "| key | default | from | meaning |", "|---|---|---|---|"]
        lines += [f"| `{row.name}` | {row.default} | {row.source} | {row.meaning} |" for row in table.rows]
    return "\n".join(lines)


def _listed(names: Sequence[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if quoted[:-1] else quoted)


def _with_sections(kind: type[Keys]) -> Iterator[type[Keys]]:
    """A class of keys, the classes it inherits from, and those of its sections."""
    yield kind
    yield from _inherited(kind)
    for field in kind.model_fields.values():
        for section in _sections(field.annotation):
            yield from _with_sections(section)


def _sections(annotation: Any) -> list[type[Keys]]:
    if isinstance(annotation, type) and issubclass(annotation, Keys):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, tuple):
        return [
            kind
            for part in get_args(annotation)
            for kind in _sections(part)
            if part not in recipe.stage_kinds().values()
        ]
    return []


def _inherited(kind: type[Keys]) -> list[type[Keys]]:
    return [base for base in kind.__mro__[1:] if issubclass(base, Keys) and base not in (Keys, BaseModel)]


def _name(kind: type[Keys]) -> str:
    """A stage's kind, or how the class is called in a recipe's own words."""
    stage = kind.model_fields.get("stage")
    if stage is not None:
        return str(stage.default)
    return TITLES[kind]


def _table(kind: type[Keys]) -> KeyTable:
    inherited = _inherited(kind)
    theirs = {name for base in inherited for name in base.model_fields}
    origins = SOURCES.get(_name(kind), {})
    rows = tuple(
        KeyRow(
            name,
            _shown(field.default),
            " ".join((field.description or "").split()).replace("``", "`").replace("|", "\\|"),
            origins.get(name, "" if _is_empty(field.default) else "ours"),
        )
        for name, field in kind.model_fields.items()
        if name not in theirs and name != "stage"
    )
    summary = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    summary = summary.split(" (`cos.")[0].rstrip(".") + "."
    return KeyTable(_name(kind), summary, rows, tuple(_name(base) for base in inherited))


def _is_empty(default: Any) -> bool:
    return default is PydanticUndefined or default is None or default == ()


def _shown(default: Any) -> str:
    """A default as YAML has it."""
    if default is PydanticUndefined:
        return "needed"
    if _is_empty(default):
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`[{', '.join(map(str, default))}]`"
    return f"`{default}`"
