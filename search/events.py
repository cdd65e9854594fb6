"""What happens in a search, as data. The JSON answer, the event stream, the trace and the tree are views of these."""

from msgspec import Struct

from cos.search.result import Result
from cos.search.types import Candidate, Path


class Opened(Struct, frozen=True):
    """Both engines have rendered the question."""

    strategy: str
    prompt_tokens: int


class Proposed(Struct, frozen=True, gc=False):
    """The policy has written a candidate, here as it was then; its score may follow later."""

    candidate: Candidate


class Scored(Struct, frozen=True, gc=False):
    """A candidate has its score (None: unscored)."""

    path: Path
    score: float | None


class Selected(Struct, frozen=True):
    """A strategy has decided which of its chains go on."""

    kept: tuple[Path, ...]
    pruned: tuple[Path, ...]


class Answered(Struct, frozen=True):
    """The search is over. Always the last event."""

    result: Result


Event = Opened | Proposed | Scored | Selected | Answered
