"""The part of OpenAI's chat completions that a search can honour, and what becomes of the rest.

Honoured: model, messages (a conversation of system, user and assistant, pictures in any of the user's messages),
stream, stream_options.include_usage, seed, temperature, top_p, and the search's own options in ``cos``.
Accepted without effect, each with a warning in the reply where it was meant to have one: see `ChatRequest`.
Null asks for nothing and is let be in every field. Everything else is refused by name.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from cos.wire.conversation import Message, usable_conversation
from cos.wire.reply import Solution
from cos.wire.request import SearchOptions
from cos.wire.strict import ChatModel, NoEffect


def _only(*allowed: Any) -> Callable[[Any], Any]:
    """A validator that lets these values pass: those that ask for nothing."""

    def check(value: Any) -> Any:
        if value not in allowed:
            raise ValueError(f"not supported by this server; leave it out (only {allowed[-1]!r} is accepted)")
        return value

    return check


NoPenalty = Annotated[float | None, AfterValidator(_only(None, 0))]


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
    messages: Annotated[tuple[Message, ...], Field(strict=False), AfterValidator(usable_conversation)]
    """The conversation. The last user message is the question; consecutive ones are one."""
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
