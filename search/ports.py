"""The ports a search needs: a policy that continues token ids, a scorer that judges a chain's newest candidate.

`engines` and `prm` satisfy them without inheriting.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

from msgspec import Struct

from cos.search.types import Chain, Question


class Encoder(Protocol):
    """The half of a vocabulary that text goes into."""

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of plain text. Control tokens spelt in it stay text: their ids never come out."""
        ...

    def control_id(self, token: str) -> int | None:
        """The id of a control token; None when the vocabulary has no such single token."""
        ...


class Vocabulary(Encoder, Protocol):
    """A tokenizer, as far as a search needs one."""

    @property
    def fingerprint(self) -> str:
        """Equal for two vocabularies exactly when they give every text the same ids."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text, control tokens spelt out."""
        ...


class Draw(Struct, frozen=True, kw_only=True, gc=False):
    """How a continuation is to be sampled."""

    max_tokens: int
    stop_ids: tuple[int, ...]
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    logprobs: bool = False
    """Whether the summed log-probability is wanted (raw: before temperature and top-p)."""
    priority: int = 0
    """Lower runs earlier."""


class Drawn(Struct, frozen=True, kw_only=True, gc=False):
    """A sampled continuation; a stop token is its last id."""

    token_ids: tuple[int, ...]
    finish: Literal["stop", "length"]
    logprob: float | None
    prompt_tokens: int
    cached_tokens: int


class PolicySession(Protocol):
    """One question, rendered once; every request continues it by token ids."""

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def tokens_aborted(self) -> int:
        """Tokens that cancelled draws had written by then, as far as the engine knows."""
        ...

    async def draw(self, continuation: Sequence[int], draw: Draw) -> Drawn:
        """One sample after prompt + ``continuation``. Cancelling the task aborts the request.

        Errors: EngineError for this request alone, EngineDead when no request can succeed any more.
        """
        ...


class Policy(Protocol):
    """A model that writes."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def context_tokens(self) -> int:
        """Longest prompt + continuation."""
        ...

    @property
    def is_saturated(self) -> bool:
        """Whether more requests than it has now would slow down those it has."""
        ...

    async def open(self, question: Question) -> PolicySession:
        """Renders a question. Errors: InputError when it cannot be rendered, EngineDead."""
        ...


class LabelRead(Struct, frozen=True, gc=False):
    """One generated token's log-probabilities of the two labels, over the full vocabulary and not renormalised."""

    good: float
    bad: float
    prompt_tokens: int
    cached_tokens: int


class Reading(Struct, frozen=True, gc=False):
    """One PRM read."""

    score: float | None
    """P(good) of the newest candidate; None when the engine's numbers were not finite."""
    prompt_tokens: int
    cached_tokens: int


class ScorerSession(Protocol):
    """One question in view of the scorer."""

    async def score(self, chain: Chain) -> Reading:
        """Judges the newest candidate of a chain, given all before it. Errors: as PolicySession.draw."""
        ...


class Scorer(Protocol):
    """A process reward model."""

    async def open(self, question: Question) -> ScorerSession:
        """Renders a question. Errors: as Policy.open."""
        ...


Pair = tuple[str, str]
"""Two answers."""


class Comparer(Protocol):
    """Tells whether answers say the same."""

    async def agree(self, pairs: Sequence[Pair]) -> list[bool | None]:
        """For each pair whether it says the same; what cannot be decided is not, and None had no time. Never raises."""
        ...
