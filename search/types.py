"""The nouns of a search: question, piece, candidate, chain, usage. All are frozen, but that a candidate is given its
score once the PRM has read it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, ValuesView
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast, get_args

from msgspec import Struct

if TYPE_CHECKING:
    from PIL.Image import Image

Path = tuple[int, ...]
"""Where a candidate stands in the tree: the child index at each level. The root is ``()``."""

End = Literal["step", "answer", "max_steps", "truncated", "broken", "empty", "repeated"]
"""How a candidate ended: a whole step, a whole answer, a step where only an answer was allowed any more (or which fills
the context), cut by a token limit, text the grammar cannot read, a step that says nothing, or one that its chain has
taken before."""

UNREADABLE: frozenset[End] = frozenset({"truncated", "broken", "empty", "repeated"})
"""Ends that nothing can follow and no PRM is shown."""

FinishReason = Literal[
    "answer", "max_steps", "truncated", "broken", "empty", "repeated", "tokens", "prm_reads", "seconds", "shutdown"
]
"""Why a search returned what it did: an answer, the limit it met first, or that the server was stopped."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded RGB image, and the digest of its pixels as caches may know it."""

    image: Image
    digest: str


Role = Literal["system", "user", "assistant"]


class Turn(Struct, frozen=True):
    """One turn of a conversation. Its text is plain: a control token that is spelt in it stays text."""

    role: Role
    content: str | tuple[str | Picture, ...]
    """Text, or text and pictures in the order in which they are shown."""

    @property
    def parts(self) -> tuple[str | Picture, ...]:
        """The content, a text alone as one part."""
        return (self.content,) if isinstance(self.content, str) else self.content

    @property
    def text(self) -> str:
        """All its text, without the pictures."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Its pictures in order."""
        return tuple(part for part in self.parts if not isinstance(part, str))


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, about which pictures, and what was said before."""

    text: str
    pictures: tuple[Picture, ...] = ()
    """Shown before the text."""
    choices: tuple[str, ...] = ()
    """The options of a multiple-choice question, A first. They guide how answers are compared, never the prompt."""
    history: tuple[Turn, ...] = ()
    """The conversation before the question, oldest turn first. Its first turn may be a system message."""
    placed: tuple[str | Picture, ...] = ()
    """Text and pictures in the order in which the user put them; empty where the pictures stand first. It is for models
    that take a picture in any place, see `cos.search.ports.PlacesPictures`."""

    @property
    def all_pictures(self) -> tuple[Picture, ...]:
        """The pictures of the conversation and the question's own, in the order in which they are shown."""
        return (*(picture for turn in self.history for picture in turn.pictures), *self.pictures)


class Prefix(Protocol):
    """What was written so far, as the runtime continues it: token ids in process, text over HTTP. A search compares
    prefixes and puts them together, and never looks into one. The empty tuple is nothing yet, for any runtime."""

    def __add__(self, other: Any, /) -> Any: ...

    def __hash__(self) -> int: ...


class _NoFields(Mapping[str, str]):
    """Nothing, that nobody can change, and that a copy or another process can have."""

    __slots__ = ()

    def __getitem__(self, part: str) -> str:
        raise KeyError(part)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "{}"

    def __reduce__(self) -> str:
        return "NO_FIELDS"

    def values(self) -> ValuesView[str]:
        # Every candidate is asked for them; a tuple is read at a tenth of a view's cost.
        return cast("ValuesView[str]", ())


NO_FIELDS: Mapping[str, str] = _NoFields()


Kind = Literal["step", "answer", "truncated", "broken"]
"""A whole step, a whole answer, text that a token limit cut, or text that the grammar cannot read."""

KINDS: tuple[Kind, ...] = get_args(Kind)


class Piece(Struct, frozen=True, gc=False):
    """What the policy wrote from one cut to the next, as its grammar reads it."""

    kind: Kind
    text: str
    """All that a step says, or the answer, in plain words without markup; of a piece that is neither, the raw text."""
    fields: Mapping[str, str] = NO_FIELDS
    """A step's named parts in order, where its grammar names parts."""


class Candidate(Struct, kw_only=True, gc=False):
    """What the policy wrote from one cut to the next, where it stands, and its score.

    It is shared by the tree and by every chain it stands in. Only its score is ever set, once, by whoever read it.
    """

    path: Path
    written: Prefix
    """As the runtime continues it."""
    tokens: int
    piece: Piece
    end: End
    logprob: float | None = None
    """Sum of the log-probabilities of its tokens; None where they were not asked for."""
    score: float | None = None
    """The PRM's, on its own scale, or in likelihood mode the mean log-probability; None is unscored, never a zero."""

    def __hash__(self) -> int:
        # By what never changes: a chain in a set is found again once it has its score.
        return hash(self.path)

    @property
    def answer(self) -> str | None:
        """The answer, where it is one."""
        return self.piece.text if self.end == "answer" else None

    @property
    def mean_logprob(self) -> float | None:
        """Log-probability per token."""
        return None if self.logprob is None else self.logprob / max(1, self.tokens)

    @property
    def is_last(self) -> bool:
        """Whether nothing can follow it."""
        return self.end != "step"


@dataclass(frozen=True, slots=True)
class Chain:
    """A path from the root: candidates in order, each the child of the one before. The empty chain is the root."""

    candidates: tuple[Candidate, ...] = ()
    prefix: Prefix = field(init=False, repr=False, compare=False)
    """All that its candidates wrote."""
    tokens: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        written = [candidate.written for candidate in self.candidates]
        object.__setattr__(self, "prefix", reduce(add, written) if written else ())
        object.__setattr__(self, "tokens", sum(candidate.tokens for candidate in self.candidates))

    @property
    def path(self) -> Path:
        return self.candidates[-1].path if self.candidates else ()

    @property
    def is_answered(self) -> bool:
        """Whether it reached a whole answer."""
        return bool(self.candidates) and self.candidates[-1].end == "answer"

    @property
    def is_last(self) -> bool:
        """Whether it cannot be continued."""
        return bool(self.candidates) and self.candidates[-1].is_last

    @property
    def answer(self) -> str | None:
        return self.candidates[-1].answer if self.candidates else None

    @property
    def answer_score(self) -> float | None:
        return self.candidates[-1].score if self.is_answered else None

    @property
    def steps(self) -> tuple[Candidate, ...]:
        """Its candidates without the answer's."""
        return self.candidates[:-1] if self.is_answered else self.candidates

    @property
    def logprob(self) -> float | None:
        """Log-probability of the whole text."""
        parts = [candidate.logprob for candidate in self.candidates]
        return None if not parts or None in parts else math.fsum(part for part in parts if part is not None)

    def then(self, candidate: Candidate) -> Chain:
        """This chain and one candidate more."""
        prefix = self.prefix + candidate.written if self.candidates else candidate.written
        return _known((*self.candidates, candidate), prefix, self.tokens + candidate.tokens)

    def with_newest(self, newest: Candidate) -> Chain:
        """This chain with another candidate for its newest, one that wrote the same."""
        return _known((*self.candidates[:-1], newest), self.prefix, self.tokens)


def _known(candidates: tuple[Candidate, ...], prefix: Prefix, tokens: int) -> Chain:
    """A chain whose prefix need not be put together again: that would cost a search most of its own memory traffic."""
    chain = object.__new__(Chain)
    object.__setattr__(chain, "candidates", candidates)
    object.__setattr__(chain, "prefix", prefix)
    object.__setattr__(chain, "tokens", tokens)
    return chain


class Wish(NamedTuple):
    """A chain to continue, and how."""

    chain: Chain
    n: int
    temperature: float | None = None
    """The search's unless given."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a search cost. Every generated token is kept (in the answer's chain), a duplicate, asked for, aborted, or
    discarded."""

    tokens_generated: int = 0
    tokens_kept: int = 0
    tokens_duplicate: int = 0
    """Of candidates whose chains say what a chain with an earlier path says."""
    tokens_asked: int = 0
    """Of what the policy was asked about its own candidates, beside the tree."""
    tokens_aborted: int = 0
    """Of requests that were aborted before they ended, or begun ahead in vain."""
    tokens_discarded: int = 0
    """Of all other candidates outside the answer's chain."""
    policy_prompt_tokens: int = 0
    """Prompt tokens over all policy requests, cached ones included."""
    policy_cached_tokens: int = 0
    requests_aborted: int = 0
    requests_failed: int = 0
    candidates: int = 0
    candidates_duplicate: int = 0
    """Candidates whose chains say what a chain with an earlier path says."""
    candidates_aborted: int = 0
    """Candidates that were begun and are not in the tree: broken off, or begun ahead in vain."""
    candidates_begun_ahead: int = 0
    """Candidates that were begun before it was decided that they are wanted."""
    candidates_begun_in_vain: int = 0
    """Begun ahead, too, and dropped."""
    prm_reads: int = 0
    prm_prompt_tokens: int = 0
    prm_cached_tokens: int = 0
    prm_tokens_generated: int = 0
    """Written by a PRM that writes its verdicts, those that came to nothing included; in no other count."""
    unscored: int = 0
    """Candidates whose score was missing or not finite."""


@dataclass(frozen=True, slots=True)
class Stages:
    """Where the wall time of a search went, seconds. At each instant a search is in exactly one stage."""

    queue_s: float = 0.0
    """It waited for a place."""
    decode_s: float = 0.0
    """Its picture was decoded."""
    open_s: float = 0.0
    """Engines rendered its question."""
    generate_s: float = 0.0
    """At least one candidate was being drawn."""
    score_s: float = 0.0
    """Nothing was drawn any more, and PRM scores were waited for."""
    vote_s: float = 0.0
    """Neither of these, and answers were compared."""
    select_s: float = 0.0
    """No engine had anything to do for it."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall time, seconds, from when the search was asked for."""

    first_candidate_s: float | None = None
    total_s: float = 0.0
    stages: Stages = Stages()
    """They add up to the total."""
