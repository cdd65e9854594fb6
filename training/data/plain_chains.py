"""What readers of published PRM data have in common: steps of plain text, and fields that are looked for by name.

It is a part of the trainer that knows CoS: steps of plain text become steps with a name and a thought.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, cast

from cos.search.grammars.cos import Step
from cos.training.data.rows import ChainRow, ProblemRow, TagLabel, kind_of

IMAGE = "<image>"


@dataclass(frozen=True, slots=True)
class PlainChain:
    """A chain whose steps are plain text. They become the thoughts of steps named ``Step 1``, ``Step 2`` and so on,
    with empty reflections."""

    steps: Sequence[str]
    labels: Sequence[TagLabel | None]
    """One a step; None for a step that nobody rated."""
    answer: str
    answer_label: TagLabel | None

    def row(self, name: str, question: str, *, gold: str, image: str | None = None) -> ChainRow:
        """The chain as a row of the source ``published``. Rows of one question have one problem, whatever ``name``."""
        key = sha256(repr((image, question, gold)).encode()).hexdigest()[:16]
        return ChainRow(
            id=name,
            problem=ProblemRow(id=f"published-{key}", image=image, question=question, answer=gold),
            steps=tuple(Step(f"Step {number}", text, "") for number, text in enumerate(self.steps, start=1)),
            answer=self.answer,
            labels={"published": (*self.labels, self.answer_label)},
        )


def text_at(row: Mapping[str, Any], key: str, place: str = "", *, may_be_empty: bool = False) -> str:
    """A text field. Errors: ValueError naming it."""
    found: object = row.get(key)
    if not isinstance(found, str) or not (found.strip() or may_be_empty):
        raise ValueError(f"{place}{key}: text is needed, not {kind_of(found)}")
    return found.strip()


def list_at(row: Mapping[str, Any], key: str, place: str = "") -> list[object]:
    """A list. Errors: ValueError naming it."""
    found: object = row.get(key)
    if not isinstance(found, list):
        raise ValueError(f"{place}{key}: a list is needed, not {kind_of(found)}")
    return cast("list[object]", found)


def mapping_at(row: Mapping[str, Any], key: str, place: str = "") -> dict[str, Any]:
    """An object. Errors: ValueError naming it."""
    found: object = row.get(key)
    if not isinstance(found, dict):
        raise ValueError(f"{place or key}: an object is needed, not {kind_of(found)}".replace(".:", ":"))
    return cast("dict[str, Any]", found)
