"""A stored search: one JSON document, for training and replay to read (docs/traces.md)."""

import json
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

from pydantic import ValidationError

from cos.search.scale import Scale as PrmScale
from cos.search.types import Path, Picture, Role, Turn
from cos.wire.message import Message, SearchEnd
from cos.wire.reply import Candidate, Timings, Usage

VERSION = 3
"""Of the documents' form. Raised when a reader of the last one would misread them."""


class Scale(Message):
    """What the PRM's scores mean."""

    is_probability: bool
    """Whether a score says how likely a step is right."""
    threshold: float | None
    """A step that scores less is taken for wrong; null where the PRM's format has no such number."""
    lowest: float | None
    """Null on a scale without this end."""
    highest: float | None
    judges: Literal["steps", "answers", "pairs"] = "steps"
    """Whether steps have scores, or whole answers only, or these by comparison with each other."""

    @classmethod
    def of(cls, scale: PrmScale) -> "Scale":
        """A scale as it is stored."""
        return cls(
            is_probability=scale.is_probability,
            threshold=scale.threshold,
            lowest=scale.lowest if math.isfinite(scale.lowest) else None,
            highest=scale.highest if math.isfinite(scale.highest) else None,
            judges=scale.judges,
        )


class StoredPart(Message):
    """One part of a stored turn: text, or a picture."""

    text: str | None = None
    image: str | None = None
    """The picture's file, relative to the trace folder."""


class StoredTurn(Message):
    """One turn of the conversation before the question."""

    role: Role
    content: tuple[StoredPart, ...]
    """In the order in which its parts were shown."""

    @classmethod
    def of(cls, turn: Turn, file_of: Callable[[Picture], str]) -> "StoredTurn":
        """A turn as it is stored. ``file_of``: a picture's file."""
        return cls(
            role=turn.role,
            content=tuple(
                StoredPart(text=part) if isinstance(part, str) else StoredPart(image=file_of(part))
                for part in turn.parts
            ),
        )


class Trace(Message):
    """One search, as it is stored."""

    version: int = VERSION
    id: str
    time: datetime
    """When the search ended, UTC."""
    question: str
    images: tuple[str, ...]
    """The files of the question's pictures in order, relative to the trace folder."""
    history: tuple[StoredTurn, ...]
    """The conversation before the question, oldest turn first."""
    policy: str
    grammar: str
    """The step grammar that the policy's text was read by."""
    prm: str | None
    """The PRM that was there to ask."""
    scale: Scale | None
    """What its scores mean; null without one."""
    strategy: str
    parameters: dict[str, Any]
    """All that was in force. What the scores are, ``score`` says: "prm" or "likelihood"."""
    tree: tuple[Candidate, ...]
    """Every candidate in path order; ``kept`` are those of the winning chain. No text is cut."""
    chain: Path
    """Path of the winning chain's last candidate."""
    answer: str | None
    chain_score: float | None
    finish_reason: SearchEnd
    usage: Usage
    timings: Timings

    @property
    def is_judged(self) -> bool:
        """Whether its scores are the PRM's."""
        return self.parameters.get("score") == "prm"


def read_trace(data: bytes) -> Trace:
    """A stored trace. Errors: ValueError saying what is wrong with it."""
    try:
        found = json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not JSON: {error}") from error
    version = found.get("version") if isinstance(found, dict) else None
    if version != VERSION:
        raise ValueError(f"a trace of version {version!r}, and this program reads version {VERSION}")
    try:
        return Trace.model_validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
