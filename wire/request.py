"""What goes in and out of /solve, as its clients see it. The docstrings of the fields reach the OpenAPI page."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from cos.search.select import Aggregation, ScoreKind
from cos.search.types import End, FinishReason

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


class RequestModel(BaseModel):
    """Closed, frozen and strict: no field is guessed, no text taken for a number, no NaN for one."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ReplyModel(BaseModel):
    """Frozen; numbers that are not finite never get out."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null", use_attribute_docstrings=True)


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
    """Root seed; drawn at random unless given, and told in the reply."""
    step_tokens: int | None = None
    """Longest step, in tokens."""
    max_steps: int | None = None
    """Deepest chain, in steps, its answer not counted."""
    score: ScoreKind | None = None
    """What ranks candidates: the PRM, or the policy's own likelihood (the default of a server without a PRM)."""
    aggregation: Aggregation | None = None
    """How step scores become a chain's score."""
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


class SolveRequest(SearchOptions):
    """A question about an image, and how to search for its answer."""

    question: QuestionText
    image: str | None = None
    """A data URI (``data:image/png;base64,...``) or bare base64 of a PNG, JPEG, WEBP, GIF or BMP file."""
    choices: Annotated[tuple[str, ...], Field(strict=False), AfterValidator(usable_choices)] | None = None
    """The options of a multiple-choice question, A first: answers are compared by the option they mean, and the reply
    says which it is. The prompt stays as it is; name the options in the question, too."""
    stream: bool = False
    """Whether to send what happens as server-sent events."""


class StepReply(ReplyModel):
    """One step of the winning chain."""

    index: int
    """From 1."""
    name: str | None
    thought: str | None
    reflection: str | None
    score: float | None
    """P(good) by the PRM, or the mean log-probability of a token; null is unscored."""
    end: End
    """How it ended; anything but "step" was the last one."""
    excerpt: str | None = None
    """Beginning of the raw text of a step that the grammar could not read."""


class NodeReply(ReplyModel):
    """One candidate of the search tree."""

    path: tuple[int, ...]
    """The child index at each level."""
    parent: tuple[int, ...]
    """Path of its parent; empty is the root."""
    end: End
    name: str | None
    thought: str | None
    reflection: str | None
    answer: str | None
    excerpt: str | None = None
    score: float | None
    tokens: int
    kept: bool
    """Whether it stands in the winning chain."""


class UsageReply(ReplyModel):
    """What the search cost. Every generated token is kept (in the winning chain), a duplicate, asked for, aborted, or
    discarded."""

    tokens_generated: int
    tokens_kept: int
    tokens_duplicate: int
    """Of candidates whose chains say what another chain says."""
    tokens_asked: int
    """Of what the policy was asked about its own candidates (self_critique)."""
    tokens_aborted: int
    """Of requests that were aborted before they ended, or begun ahead in vain."""
    tokens_discarded: int
    """Of all other candidates outside the winning chain."""
    policy_prompt_tokens: int
    """Prompt tokens over all policy requests, cached ones included."""
    policy_cached_tokens: int
    candidates: int
    candidates_duplicate: int
    """Candidates whose chains say what another chain says."""
    candidates_aborted: int
    """Candidates that were begun and are not in the tree: broken off, or begun ahead in vain."""
    candidates_begun_ahead: int
    """Candidates that were begun before it was decided that they are wanted."""
    candidates_begun_in_vain: int
    """Begun ahead, too, and dropped."""
    prm_reads: int
    prm_prompt_tokens: int
    prm_cached_tokens: int
    unscored: int
    """Candidates whose score was missing or not finite."""
    requests_aborted: int
    requests_failed: int


class StagesReply(ReplyModel):
    """Where the wall time of a search went, seconds. At each instant it is in exactly one stage."""

    queue_s: float
    """It waited for a place."""
    decode_s: float
    """Its picture was decoded."""
    open_s: float
    """The engines rendered its question."""
    generate_s: float
    """At least one candidate was being drawn."""
    score_s: float
    """Nothing was drawn any more, and PRM scores were waited for."""
    vote_s: float
    """Neither of these, and answers were compared."""
    select_s: float
    """No engine had anything to do for it."""


class TimingsReply(ReplyModel):
    """Wall time, seconds, from when the search was asked for: its wait for a place counts."""

    first_candidate_s: float | None
    total_s: float
    stages: StagesReply
    """They add up to the total."""


class SolveReply(ReplyModel):
    """The best answer, its scored chain of steps, and all it took to find it."""

    id: str
    model: str
    question: str
    answer: str | None
    """Null where a limit came before any whole answer."""
    choice: str | None = None
    """The one of the request's choices that the answer means."""
    confidence: float | None
    """The chain's score on a scale from 0 to 1; by likelihood, the mean probability of its tokens."""
    steps: tuple[StepReply, ...]
    answer_score: float | None
    chain_score: float | None
    strategy: str
    parameters: dict[str, Any]
    """All that was in force, the seed included: the same parameters ask for the same search again."""
    finish_reason: FinishReason
    complete: bool
    """Whether there is a whole answer."""
    usage: UsageReply
    timings: TimingsReply
    warnings: tuple[str, ...]
    tree: tuple[NodeReply, ...] | None = None
    """Every candidate in path order, on request."""
