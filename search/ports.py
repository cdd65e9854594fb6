"""The ports a search needs: a policy that continues a prefix, a scorer that judges a chain's newest candidate.

`engines` and `prm` satisfy them without inheriting.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from msgspec import Struct

from cos.search.prompt import Prompt
from cos.search.scale import Scale
from cos.search.types import Chain, Prefix, Question


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


class Stops(Struct, frozen=True, gc=False):
    """What ends a piece besides the end of the model's turn."""

    token_ids: tuple[int, ...] = ()
    strings: tuple[str, ...] = ()
    """Each ends a piece as soon as it is written. It is part of the piece."""


class Draw(Struct, frozen=True, kw_only=True, gc=False):
    """How a continuation is to be sampled."""

    max_tokens: int
    stops: Stops
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    logprobs: bool = False
    """Whether the summed log-probability is wanted (raw: before temperature and top-p)."""
    priority: int = 0
    """Lower runs earlier."""
    json_schema: str | None = None
    """What is written must be JSON that satisfies this schema; None leaves it free."""


class Drawn(Struct, frozen=True, kw_only=True, gc=False):
    """A sampled continuation; what stopped it is its end."""

    written: Prefix
    """As the runtime continues it: token ids, or over HTTP the text."""
    text: str
    """The text, control tokens spelt out, without the one that ends the model's turn. Behind a stop string there may
    stand what else the last token says."""
    tokens: int
    finish: Literal["stop", "length"]
    stop: int | str | None
    """The token id or the string that ended it; None where a token limit did, or the model ended its turn."""
    turn_end: str = ""
    """The token that ended the model's turn, spelt out; empty where anything else ended it."""
    logprob: float | None
    prompt_tokens: int
    cached_tokens: int


class PolicySession(Protocol):
    """One prompt, rendered once; every request continues it by what was written since."""

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def tokens_aborted(self) -> int:
        """Tokens that cancelled draws had written by then, as far as the runtime knows."""
        ...

    async def draw(self, prefix: Prefix, draw: Draw) -> Drawn:
        """One sample after prompt + ``prefix``. Cancelling the task aborts the request.

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

    async def open(self, prompt: Prompt) -> PolicySession:
        """Renders a prompt. Errors: InputError when it cannot be rendered, EngineDead."""
        ...


@runtime_checkable
class ReportsLoad(Protocol):
    """A policy that knows how busy it is. Of one that does not, a search takes it that there is room for more."""

    @property
    def is_saturated(self) -> bool:
        """Whether more requests than it has now would slow down those it has."""
        ...


@runtime_checkable
class CountsPictures(Protocol):
    """A runtime that knows how many pictures its model takes."""

    @property
    def most_pictures(self) -> int:
        """Most pictures in a prompt; 0 for a model that reads text alone."""
        ...


@runtime_checkable
class PlacesPictures(Protocol):
    """A runtime that knows whether its model's chat template takes a picture in any place of a turn."""

    @property
    def places_pictures(self) -> bool:
        """False for a template that takes text alone, whose models were trained on pictures before their question."""
        ...


Ability = Literal["labels", "head", "text"]
"""What a format asks of its model: log-probabilities of labels, values of a head, or a verdict in words."""


class LabelRead(Struct, frozen=True, gc=False):
    """One generated token's log-probabilities of some labels, over the full vocabulary and not renormalised."""

    logprobs: tuple[float, ...]
    """In the order in which the labels were asked for; NaN for one that the runtime did not tell."""
    prompt_tokens: int
    cached_tokens: int


class HeadRead(Struct, frozen=True, gc=False):
    """What a model's head says at the last token."""

    values: tuple[float, ...]
    prompt_tokens: int
    cached_tokens: int


class Reading(Struct, frozen=True, gc=False):
    """One PRM read."""

    score: float | None
    """Of the newest candidate, on the scorer's scale; None when the engine's numbers were not usable."""
    prompt_tokens: int
    cached_tokens: int
    tokens: int = 0
    """What the scorer wrote for it."""


class ScorerSession(Protocol):
    """One question in view of the scorer."""

    async def score(self, chain: Chain) -> Reading:
        """Judges the newest candidate of a chain, given all before it. Errors: as PolicySession.draw."""
        ...


@runtime_checkable
class ComparesAnswers(Protocol):
    """A scorer's session that tells which of two answers is better, and nothing of one alone. Its scale `judges`
    "pairs"."""

    async def compare(self, one: Chain, other: Chain) -> Reading:
        """The chance that ``one`` is better than ``other``, shown in this order. Errors: as PolicySession.draw."""
        ...


@runtime_checkable
class WritesVerdicts(Protocol):
    """A scorer's session whose model writes before it scores."""

    @property
    def tokens_aborted(self) -> int:
        """Tokens written for reads that came to nothing: they were cancelled, or failed after that."""
        ...


class Scorer(Protocol):
    """A process reward model in the format that it was trained for."""

    @property
    def scale(self) -> Scale:
        """What its scores mean."""
        ...

    async def open(self, question: Question) -> ScorerSession:
        """Shows it a question. Errors: as Policy.open."""
        ...


Pair = tuple[str, str]
"""Two answers."""


class Comparer(Protocol):
    """Tells whether answers say the same."""

    async def agree(self, pairs: Sequence[Pair]) -> list[bool | None]:
        """For each pair whether it says the same; what cannot be decided is not, and None had no time. Never raises."""
        ...
