"""The part of OpenAI's chat completions that a single-question server can honour, and what it does with the rest.

Honoured: model, messages (one user turn with text and at most one image; system turns go before the question), stream,
stream_options.include_usage, seed, temperature above 0, top_p, and the search's own options in ``cos``.
Accepted without effect, each with a warning in the reply where it was meant to have one: see `ChatRequest`.
Everything else is refused by name.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, Field, field_validator, model_validator

from cos.server.schemas import RequestModel, SearchOptions, SolveReply


def _only(*allowed: Any) -> Callable[[Any], Any]:
    """A validator that lets these values pass: those that ask for nothing."""

    def check(value: Any) -> Any:
        if value not in allowed:
            raise ValueError(f"not supported by this server; leave it out (only {allowed[-1]!r} is accepted)")
        return value

    return check


class ClientModel(RequestModel):
    """A part of the request that clients fill by their own habits: an unknown field that is null asks for nothing."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = cast("dict[str, Any]", data)
        return {name: value for name, value in given.items() if value is not None or name in cls.model_fields}


NoPenalty = Annotated[float | None, AfterValidator(_only(None, 0))]


class ImageUrl(ClientModel):
    """An image."""

    url: str
    """A data URI; the server fetches nothing."""
    detail: Literal["auto", "low", "high"] | None = None
    """No effect."""


class Part(ClientModel):
    """One part of a message."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None
    cache_control: Any = None
    """No effect: prefixes are cached by themselves."""

    @field_validator("image_url", mode="before")
    @classmethod
    def _bare_address(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_what_it_says(self) -> "Part":
        if (self.text is not None, self.image_url is not None) != (self.type == "text", self.type == "image_url"):
            raise ValueError(f"a part of type {self.type!r} has the field {self.type!r} and no other")
        return self


class Message(ClientModel):
    """One turn."""

    role: str
    content: list[Part]
    """Text, or a list of parts."""
    name: str | None = None
    """No effect."""
    id: str | None = None
    """No effect."""

    @field_validator("role")
    @classmethod
    def _single_question(cls, value: str) -> str:
        if value not in ("user", "system", "developer"):
            raise ValueError(
                f"role {value!r} is not supported: this server answers single questions; "
                "send one user message, and system messages if need be (in a chat program: start a new chat)"
            )
        return value

    @field_validator("content", mode="before")
    @classmethod
    def _bare_text(cls, value: Any) -> Any:
        return [{"type": "text", "text": value}] if isinstance(value, str) else value


class StreamOptions(ClientModel):
    """How to stream."""

    include_usage: bool = False
    continuous_usage_stats: bool | None = None
    """No effect: usage is known at the end."""
    include_obfuscation: bool | None = None
    """No effect."""


class TextFormat(RequestModel):
    """The only response format there is."""

    type: Literal["text"]


class ChatRequest(ClientModel):
    """A chat completion."""

    model: str
    messages: Annotated[tuple[Message, ...], Field(strict=False)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: int | None = None
    """Root seed of the search, unless ``cos`` has one; a negative one is drawn at random."""
    temperature: float | None = None
    """Sampling temperature of the search, unless ``cos`` has one. 0 is in force with the strategy "greedy"; with others
    it would make all candidates equal, so that it means one seed for every request and is told in a warning."""
    top_p: float | None = None
    """Nucleus sampling threshold of the search, unless ``cos`` has one."""
    cos: SearchOptions = SearchOptions()
    """How to search; the same fields as /solve."""

    n: Annotated[int | None, AfterValidator(_only(None, 1))] = None
    """Choices returned: one. The number of candidates is ``cos.n``."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """No effect, with a warning: a search writes many chains; ``cos.budget.tokens`` limits their cost and
    ``cos.step_tokens`` and ``cos.max_steps`` their length."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """No effect, as max_tokens."""
    response_format: TextFormat | None = None
    user: str | None = None
    """No effect."""
    metadata: dict[str, str] | None = None
    """No effect."""
    store: bool | None = None
    """No effect: nothing is stored."""
    service_tier: str | None = None
    """No effect."""
    ignore_eos: bool | None = None
    """No effect, with a warning."""
    presence_penalty: NoPenalty = None
    frequency_penalty: NoPenalty = None
    logprobs: Annotated[bool | None, AfterValidator(_only(None, False))] = None
    top_logprobs: Annotated[int | None, AfterValidator(_only(None, 0))] = None
    stop: Annotated[Any, AfterValidator(_only([], None))] = None
    tools: list[Any] | None = None
    """No effect, with a warning where one might have been called: a search answers by itself."""
    tool_choice: Annotated[Any, AfterValidator(_only(None, "none", "auto"))] = None
    """No effect; a tool that must be called is refused."""
    functions: list[Any] | None = None
    """No effect, as tools."""
    function_call: Annotated[Any, AfterValidator(_only(None, "none", "auto"))] = None
    """No effect, as tool_choice."""
    parallel_tool_calls: bool | None = None
    """No effect: no tool is called."""
    logit_bias: Annotated[Any, AfterValidator(_only({}, None))] = None
    prediction: Annotated[Any, AfterValidator(_only(None))] = None
    modalities: Annotated[Any, AfterValidator(_only(None, ["text"]))] = None
    top_k: int | None = None
    """No effect, with a warning."""
    min_p: float | None = None
    """No effect, with a warning unless it is 0."""
    repetition_penalty: float | None = None
    """No effect, with a warning unless it is 1."""
    reasoning_effort: Any = None
    """No effect, with a warning: ``cos.strategy`` and ``cos.n`` say how much is searched."""
    verbosity: Any = None
    """No effect."""
    chat_template_kwargs: dict[str, Any] | None = None
    """No effect, with a warning unless it is empty."""
    prompt_cache_key: str | None = None
    """No effect."""
    prompt_cache_retention: str | None = None
    """No effect."""
    safety_identifier: str | None = None
    """No effect."""


class ReplyMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    """The final answer; empty where a limit came first."""
    reasoning: str
    """The scored steps, one a line."""
    reasoning_content: str
    """The same, by its other name."""


class Choice(BaseModel):
    """The one choice."""

    index: Literal[0] = 0
    message: ReplyMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class CompletionDetails(BaseModel):
    """Where the generated tokens went."""

    reasoning_tokens: int
    """All but those of the final answer."""


class ChatUsage(BaseModel):
    """Tokens. Everything that was generated counts, not the answer's chain alone."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: CompletionDetails


class ChatReply(BaseModel):
    """A chat completion with its search."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: ChatUsage
    cos: SolveReply
    """The whole reply of /solve."""
