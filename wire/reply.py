"""What goes to a server and what comes back. Fields that a newer server adds are kept as they are."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from PIL.Image import Image

ImageLike: TypeAlias = "str | PathLike[str] | bytes | Image | None"
"""A path, a data URI, an image file's bytes, a Pillow image, or None for a question without a picture."""


class Budget(TypedDict, total=False):
    """What a search may spend; at any limit the best chain so far is the answer."""

    tokens: int
    prm_reads: int
    seconds: float


class Options(TypedDict, total=False):
    """How to search. What is not given is the server's default, but for the seed, which is 0."""

    strategy: str
    n: int
    beam_width: int
    temperature: float
    top_p: float
    seed: int
    step_tokens: int
    max_steps: int
    score: Literal["prm", "likelihood"]
    aggregation: Literal["cos", "mean", "min", "prod", "last"]
    step_weight: float
    choices: Sequence[str]
    """The options of a multiple-choice question, A first."""
    budget: Budget
    return_tree: bool
    strategy_params: Mapping[str, Any]
    """Parameters of a strategy that are not listed here."""


class Model(BaseModel):
    """Frozen; keeps fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)


Path: TypeAlias = tuple[int, ...]
"""A place in the tree: the child index at each level."""


class Step(Model):
    """One step of the winning chain."""

    index: int
    """From 1."""
    name: str | None
    thought: str | None
    reflection: str | None
    score: float | None
    """P(good) by the PRM, or in likelihood mode the mean log-probability of a token; None is unscored."""
    end: str
    """``step``, or how the chain's last step ended early."""
    excerpt: str | None = None
    """Beginning of a text that could not be read as a step."""


class Node(Model):
    """One candidate of the search tree."""

    path: Path
    end: str
    """``step``, ``answer``, or how it ended early."""
    name: str | None = None
    thought: str | None = None
    reflection: str | None = None
    answer: str | None = None
    excerpt: str | None = None
    score: float | None = None
    tokens: int
    kept: bool = False
    """Whether it stands in the winning chain."""


class Usage(Model):
    """What a search cost. Every generated token is kept (in the winning chain), a duplicate, asked for, aborted, or
    discarded."""

    tokens_generated: int
    tokens_kept: int
    tokens_duplicate: int
    tokens_asked: int
    tokens_aborted: int
    tokens_discarded: int
    policy_prompt_tokens: int
    policy_cached_tokens: int
    candidates: int
    candidates_duplicate: int
    candidates_aborted: int
    candidates_begun_ahead: int
    candidates_begun_in_vain: int
    prm_reads: int
    prm_prompt_tokens: int
    prm_cached_tokens: int
    unscored: int
    requests_aborted: int
    requests_failed: int


class Stages(Model):
    """Where the wall time of a search went, seconds. At each instant it is in exactly one stage."""

    queue_s: float
    decode_s: float
    open_s: float
    generate_s: float
    score_s: float
    vote_s: float
    select_s: float


class Timings(Model):
    """Wall time, seconds, from when the search was asked for: its wait for a place counts."""

    first_candidate_s: float | None
    total_s: float
    stages: Stages
    """They add up to the total."""


class Solution(Model):
    """The best answer, its scored chain of steps, and all it took to find it."""

    id: str
    model: str
    question: str
    answer: str | None
    """None where a limit came before any whole answer."""
    choice: str | None = None
    """The one of the choices that the answer means."""
    confidence: float | None
    """The chain's score on a scale from 0 to 1."""
    steps: tuple[Step, ...]
    answer_score: float | None
    chain_score: float | None
    strategy: str
    parameters: dict[str, Any]
    """All that was in force, the seed included."""
    finish_reason: str
    complete: bool
    """Whether there is a whole answer."""
    usage: Usage
    timings: Timings
    warnings: tuple[str, ...] = ()
    tree: tuple[Node, ...] | None = None
    """Every candidate in path order, if it was asked for."""


class Opened(Model):
    """The search has begun."""

    id: str
    strategy: str
    parameters: dict[str, Any]
    prompt_tokens: int


class Written(Model):
    """A candidate was written; its score may follow later."""

    node: Node


class Scored(Model):
    """A candidate has its score (None: unscored)."""

    path: Path
    score: float | None


class Selected(Model):
    """The strategy has decided which chains go on."""

    kept: tuple[Path, ...]
    pruned: tuple[Path, ...]


class Answered(Model):
    """The search is over. Always the last event."""

    solution: Solution


Event: TypeAlias = Opened | Written | Scored | Selected | Answered
