"""What happens in a search, as data. The JSON answer, the event stream, the trace and the tree are views of these."""

from dataclasses import dataclass

from cos.search.types import Candidate, Path, Result


@dataclass(frozen=True, slots=True)
class Opened:
    """Both engines have rendered the question."""

    strategy: str
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Written:
    """The policy has written a candidate; its score may follow later."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Scored:
    """A candidate has its score (None: unscored)."""

    path: Path
    score: float | None


@dataclass(frozen=True, slots=True)
class Selected:
    """A strategy has decided which of its chains go on."""

    kept: tuple[Path, ...]
    pruned: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """The search is over. Always the last event."""

    result: Result


Event = Opened | Written | Scored | Selected | Answered
