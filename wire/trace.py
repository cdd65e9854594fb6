"""A stored search: one JSON document, for training and replay to read (docs/traces.md)."""

import json
import math
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from cos.search.scale import Scale as PrmScale
from cos.search.types import Path
from cos.wire.message import Message, SearchEnd
from cos.wire.reply import Candidate, Timings, Usage

VERSION = 2
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

    @classmethod
    def of(cls, scale: PrmScale) -> "Scale":
        """A scale as it is stored."""
        return cls(
            is_probability=scale.is_probability,
            threshold=scale.threshold,
            lowest=scale.lowest if math.isfinite(scale.lowest) else None,
            highest=scale.highest if math.isfinite(scale.highest) else None,
        )


class Trace(Message):
    """One search, as it is stored."""

    version: int = VERSION
    id: str
    time: datetime
    """When the search ended, UTC."""
    question: str
    image: str | None
    """The picture's file, relative to the trace folder; null for a question about none."""
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
