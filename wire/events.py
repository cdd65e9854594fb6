"""What happens in a search while it runs, as server-sent events. The data of an event is JSON."""

from collections.abc import Callable
from typing import Any

from cos.search.types import Path
from cos.wire.message import Message
from cos.wire.reply import Candidate, Solution


class Opened(Message):
    """The search has begun."""

    id: str
    strategy: str
    parameters: dict[str, Any]
    prompt_tokens: int


class Proposed(Message):
    """The policy has proposed a candidate; its score may follow later."""

    candidate: Candidate


class Scored(Message):
    """A candidate has its score (null: unscored)."""

    path: Path
    score: float | None


class Selected(Message):
    """The strategy has decided which chains go on."""

    kept: tuple[Path, ...]
    pruned: tuple[Path, ...]


class Answered(Message):
    """The search is over. Always the last event."""

    solution: Solution


Event = Opened | Proposed | Scored | Selected | Answered

_READERS: dict[str, Callable[[bytes], Event]] = {
    "opened": Opened.model_validate_json,
    "candidate": lambda data: Proposed(candidate=Candidate.model_validate_json(data)),
    "scored": Scored.model_validate_json,
    "selected": Selected.model_validate_json,
    "answered": lambda data: Answered(solution=Solution.model_validate_json(data)),
}


def encoded(event: Event) -> tuple[str, str]:
    """An event's name in the stream, and its data."""
    match event:
        case Opened():
            return "opened", event.model_dump_json()
        case Proposed(candidate=candidate):
            # Which chain wins is not known yet.
            return "candidate", candidate.model_dump_json(exclude={"kept"})
        case Scored():
            return "scored", event.model_dump_json()
        case Selected():
            return "selected", event.model_dump_json()
        case Answered(solution=solution):
            return "answered", solution.model_dump_json()


def decoded(name: str, data: bytes) -> Event | None:
    """The event of a name and its data; None for a name that is not known here, a newer server's.

    Errors: ValueError for data that are none of that event's.
    """
    return _READERS[name](data) if name in _READERS else None
