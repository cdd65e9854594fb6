"""The part of OpenAI's chat completions that a single-question server can honour, and what it does with the rest.

Honoured: model, messages (the user's, which are one question with text and at most one image; system messages go before
it), stream, stream_options.include_usage, seed, temperature, top_p, and the search's own options in ``cos``.
Accepted without effect, each with a warning in the reply where it was meant to have one: see `ChatRequest`.
Null asks for nothing and is let be in every field. Everything else is refused by name.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, Field, field_validator, model_validator

from cos.wire.reply import Solution
from cos.wire.request import RequestModel, SearchOptions


def _only(*allowed: Any) -> Callable[[Any], Any]:
    """A validator that lets these values pass: those that ask for nothing."""

    def check(value: Any) -> Any:
        if value not in allowed:
            raise ValueError(f"not supported by this server; leave it out (only {allowed[-1]!r} is accepted)")
        return value

    return check


NoPenalty = Annotated[float | None, AfterValidator(_only(None, 0))]
NoEffect = Any
"""A value that nothing is made of: no request is refused for it."""


class ChatModel(RequestModel):
    """A part of a chat request. Clients spell out what they leave open: null asks for nothing, whatever the field."""

    @model_validator(mode="before")
    @classmethod
    def _nothing_asked(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        given = cast("dict[str, Any]", value)
        return {name: content for name, content in given.items() if content is not None}


class ImageUrl(ChatModel):
    """An image."""

    url: str
    """A data URI; the server fetches nothing."""
    detail: NoEffect = None
    """No effect."""


class Part(ChatModel):
    """One part of a message."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None
    cache_control: NoEffect = None
    """No effect: prefixes are cached by themselves."""
    id: NoEffect = None
    """No effect."""

    @field_validator("image_url", mode="before")
    @classmethod
    def _bare_address(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_what_it_says(self) -> "Part":
        if (self.text is not None, self.image_url is not None) != (self.type == "text", self.type == "image_url"):
            raise ValueError(f"a part of type {self.type!r} has the field {self.type!r} and no other")
        return self


class Message(ChatModel):
    """One turn."""

    role: str
    content: list[Part]
    """Text, or a list of parts."""
    name: NoEffect = None
    """No effect."""
    id: NoEffect = None
    """No effect."""
    cache_control: NoEffect = None
    """No effect: prefixes are cached by themselves."""

    @field_validator("role")
    @classmethod
    def _single_question(cls, value: str) -> str:
        if value not in ("user", "system", "developer"):
            raise ValueError(
                f"role {value!r} is not supported: this server answers single questions; "
                "start a new chat for another question (user messages, and system messages if need be)"
            )
        return value

    @field_validator("content", mode="before")
    @classmethod
    def _bare_text(cls, value: Any) -> Any:
        return [{"type": "text", "text": value}] if isinstance(value, str) else value


class StreamOptions(ChatModel):
    """How to stream."""

    include_usage: bool = False
    continuous_usage_stats: NoEffect = None
    """No effect: usage is known at the end."""
    include_obfuscation: NoEffect = None
    """No effect."""


class TextFormat(ChatModel):
    """The only response format there is."""

    type: Literal["text"]


class ChatRequest(ChatModel):
    """A chat completion."""

    model: str
    messages: list[Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: int | None = None
    """Root seed of the search, unless ``cos`` has one; a negative one is drawn at random."""
    temperature: float | None = None
    """Sampling temperature of the search, unless ``cos`` has one. 0 is in force with the strategy "greedy"; with others
    it would make all candidates equal, so that it means one seed for every request, and the reply has a warning."""
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
    user: NoEffect = None
    """No effect."""
    metadata: NoEffect = None
    """No effect."""
    store: NoEffect = None
    """No effect: nothing is stored."""
    service_tier: NoEffect = None
    """No effect."""
    ignore_eos: NoEffect = None
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
    parallel_tool_calls: NoEffect = None
    """No effect: no tool is called."""
    logit_bias: Annotated[Any, AfterValidator(_only({}, None))] = None
    prediction: Annotated[Any, AfterValidator(_only(None))] = None
    modalities: Annotated[Any, AfterValidator(_only(None, ["text"]))] = None
    top_k: NoEffect = None
    """No effect, with a warning."""
    min_p: NoEffect = None
    """No effect, with a warning unless it is 0."""
    repetition_penalty: NoEffect = None
    """No effect, with a warning unless it is 1."""
    reasoning_effort: NoEffect = None
    """No effect, with a warning: ``cos.strategy`` and ``cos.n`` say how much is searched."""
    verbosity: NoEffect = None
    """No effect."""
    chat_template_kwargs: NoEffect = None
    """No effect, with a warning unless it is empty."""
    prompt_cache_key: NoEffect = None
    """No effect."""
    prompt_cache_retention: NoEffect = None
    """No effect."""
    safety_identifier: NoEffect = None
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
    cos: Solution
    """The whole reply of /solve."""
