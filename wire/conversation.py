"""Messages of a conversation, in OpenAI's form. The docstrings of the fields reach the OpenAPI page."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, field_validator, model_validator

from cos.wire.strict import ChatModel, NoEffect

MAX_MESSAGES = 500
MAX_CONVERSATION_CHARS = 200_000
"""Of all its messages together."""


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


def _no_call(value: Any) -> Any:
    if value:
        raise ValueError("a message that calls a tool is not supported: a search answers by itself; leave it out")
    return value


class Message(ChatModel):
    """One turn of a conversation."""

    role: str
    """system (or developer), user, or assistant."""
    content: list[Part]
    """Text, or a list of parts. Pictures stand in the user's messages alone."""
    name: NoEffect = None
    """No effect."""
    id: NoEffect = None
    """No effect."""
    cache_control: NoEffect = None
    """No effect: prefixes are cached by themselves."""
    reasoning: NoEffect = None
    """No effect: an answer alone is shown to the models, not how it was found."""
    reasoning_content: NoEffect = None
    """No effect, as reasoning."""
    refusal: NoEffect = None
    """No effect."""
    annotations: NoEffect = None
    """No effect."""
    audio: NoEffect = None
    """No effect."""
    tool_calls: Annotated[Any, AfterValidator(_no_call)] = None
    function_call: Annotated[Any, AfterValidator(_no_call)] = None

    @field_validator("role")
    @classmethod
    def _known_role(cls, value: str) -> str:
        if value not in ("user", "assistant", "system", "developer"):
            raise ValueError(
                f"role {value!r} is not supported; a conversation has messages of system, user and assistant"
            )
        return value

    @field_validator("content", mode="before")
    @classmethod
    def _bare_text(cls, value: Any) -> Any:
        return [{"type": "text", "text": value}] if isinstance(value, str) else value


def usable_conversation(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages as they are. Errors: ValueError naming what cannot be used."""
    if len(messages) > MAX_MESSAGES:
        raise ValueError(f"{len(messages)} messages, the limit is {MAX_MESSAGES}; send fewer")
    texts = [(number, part.text) for number, message in enumerate(messages) for part in message.content if part.text]
    if (chars := sum(len(text) for _, text in texts)) > MAX_CONVERSATION_CHARS:
        raise ValueError(f"{chars} characters, the limit is {MAX_CONVERSATION_CHARS}; send fewer or shorter messages")
    for number, text in texts:
        if "\0" in text:
            raise ValueError(f"message {number} contains a NUL character; remove it")
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise ValueError(f"message {number} contains a lone surrogate; send valid Unicode")
    return messages
