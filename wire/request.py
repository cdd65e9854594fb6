"""What is asked of a server, and how to search. The docstrings of the fields reach the OpenAPI page."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypedDict

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from cos.search.scale import Aggregation
from cos.search.select import ScoreKind
from cos.wire.conversation import Message, usable_conversation
from cos.wire.strict import RequestModel

MAX_QUESTION_CHARS = 20_000


def usable_question(text: str) -> str:
    """The question as it is. Errors: ValueError for one that cannot be asked."""
    if not text.strip():
        raise ValueError("the question is empty; ask something")
    if len(text) > MAX_QUESTION_CHARS:
        raise ValueError(f"{len(text)} characters, the limit is {MAX_QUESTION_CHARS}; ask a shorter question")
    if "\0" in text:
        raise ValueError("the question contains a NUL character; remove it")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("the question contains a lone surrogate; send valid Unicode")
    return text


MAX_CHOICES = 26
"""As many as there are letters for them."""
MAX_CHOICE_CHARS = 500


def usable_choices(choices: tuple[str, ...]) -> tuple[str, ...]:
    """The options as they are. Errors: ValueError naming the one that cannot be used."""
    if not 1 < len(choices) <= MAX_CHOICES:
        raise ValueError(f"{len(choices)} choices; give 2 to {MAX_CHOICES}")
    for index, choice in enumerate(choices):
        if not choice.strip():
            raise ValueError(f"choice {index + 1} is empty; give its text")
        if len(choice) > MAX_CHOICE_CHARS:
            raise ValueError(f"choice {index + 1} has {len(choice)} characters, the limit is {MAX_CHOICE_CHARS}")
        if choice in choices[:index]:
            raise ValueError(f"choice {index + 1}, {choice!r}, is there twice; give distinct choices")
    return choices


QuestionText = Annotated[str, AfterValidator(usable_question)]


class BudgetOptions(RequestModel):
    """What this search may spend. At any limit the best chain so far is the answer."""

    tokens: Annotated[int, Field(ge=1)] | None = None
    """Generated policy tokens; the server's own limit unless given."""
    prm_reads: Annotated[int, Field(ge=1)] | None = None
    """Scores read from the PRM; no limit unless given."""
    seconds: Annotated[float, Field(gt=0)] | None = None
    """Wall time without the wait in the queue; the server's own limit unless given."""


class SearchOptions(RequestModel):
    """How to search. Whatever is not given, or null, is the server's or the strategy's default.

    Further fields are parameters of the chosen strategy; GET /v1/strategies lists them.
    """

    model_config = ConfigDict(extra="allow")

    strategy: str | None = None
    """Name or alias of a strategy; GET /v1/strategies lists them."""
    n: int | None = None
    """Candidates: whole chains for best_of_n and self_consistency, candidate steps a level for step searches."""
    beam_width: int | None = None
    """Chains kept after each level of a beam search."""
    temperature: float | None = None
    """Sampling temperature, 0 to 2."""
    top_p: float | None = None
    """Nucleus sampling threshold, above 0 up to 1."""
    seed: int | None = None
    """Root seed; drawn at random unless given, and named in the reply."""
    step_tokens: int | None = None
    """Longest step, in tokens."""
    max_steps: int | None = None
    """Deepest chain, in steps, its answer not counted."""
    score: ScoreKind | None = None
    """What ranks candidates: the PRM, or the policy's own likelihood (the default of a server without a PRM)."""
    aggregation: Aggregation | None = None
    """How step scores become a chain's score; as the PRM's authors do unless given."""
    step_weight: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the steps' mean in a "cos" chain score; the answer's score has the rest."""
    budget: BudgetOptions | None = None
    speculate: bool | None = None
    """Whether what is likely wanted next is begun before it is decided (yes unless given); the tree is the same."""
    return_tree: bool = False
    """Whether the reply lists every candidate of the search."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


class AskedFields(RequestModel):
    """A question, the pictures it is about, and what was said before it."""

    question: QuestionText
    image: str | None = None
    """A data URI (``data:image/png;base64,...``) or bare base64 of a PNG, JPEG, WEBP, GIF or BMP file."""
    images: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    """Several pictures, as ``image``, in the order in which they are shown: before the question. Give one of both."""
    history: Annotated[tuple[Message, ...], Field(strict=False), AfterValidator(usable_conversation)] | None = None
    """The conversation before the question, oldest message first, in the form of OpenAI's ``messages``. Policy and PRM
    are shown all of it. The question itself, and its pictures, do not stand in it."""


class SolveRequest(AskedFields, SearchOptions):
    """A question, the pictures it is about, what was said before it, and how to search for its answer."""

    choices: Annotated[tuple[str, ...], Field(strict=False), AfterValidator(usable_choices)] | None = None
    """The options of a multiple-choice question, A first: answers are compared by the option they mean, and the reply
    says which it is. The prompt stays as it is; name the options in the question, too."""
    stream: bool = False
    """Whether to send what happens as server-sent events."""


class Budget(TypedDict, total=False):
    """`BudgetOptions` as a dictionary."""

    tokens: int
    prm_reads: int
    seconds: float


class Options(TypedDict, total=False):
    """`SearchOptions`, the choices and the conversation, as keyword arguments."""

    strategy: str
    n: int
    beam_width: int
    temperature: float
    top_p: float
    seed: int
    """0 unless given: a client's search can be made again."""
    step_tokens: int
    max_steps: int
    score: ScoreKind
    aggregation: Aggregation
    step_weight: float
    choices: Sequence[str]
    """The options of a multiple-choice question, A first."""
    history: Sequence[Mapping[str, Any]]
    """The conversation before the question, in the form of OpenAI's ``messages``."""
    budget: Budget
    speculate: bool
    return_tree: bool
    strategy_params: Mapping[str, Any]
    """Parameters of a strategy that are not listed here."""
