"""The reply to a request that failed; OpenAI's clients know its shape."""

from cos.wire.message import Message


class ErrorBody(Message):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    """The field of the request that is to blame."""
    code: str


class ErrorReply(Message):
    """Every reply that is not a success."""

    error: ErrorBody
