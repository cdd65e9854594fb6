"""What request bodies have in common."""

from typing import Any, cast

from pydantic import BaseModel, ConfigDict, model_validator

NoEffect = Any
"""A value that nothing is made of: no request is refused for it."""


class RequestModel(BaseModel):
    """Closed, frozen and strict: no field is guessed, no text taken for a number, no NaN for one."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ChatModel(RequestModel):
    """A part of a chat request. Clients spell out what they leave open: null asks for nothing, whatever the field."""

    @model_validator(mode="before")
    @classmethod
    def _nothing_asked(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        given = cast("dict[str, Any]", value)
        return {name: content for name, content in given.items() if content is not None}
