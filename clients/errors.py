"""What can go wrong for a client.

CosClientError
+-- BadRequest         a value cannot be used; ``param`` names it
+-- Unauthorized       no API key, or a wrong one
+-- ServerBusy         too many searches, or the server is shutting down; ``retry_after_s`` says when to come back
+-- ServerFault        the server could not carry out the search
+-- ServerUnreachable  no connection, or it was lost
+-- BadReply           something answered, but not as a cos server does
"""


class CosClientError(Exception):
    """Any error of a client."""


class BadRequest(CosClientError):
    """A value cannot be used; the message says the value and the fix."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class Unauthorized(CosClientError):
    """No API key, or a wrong one."""


class ServerBusy(CosClientError):
    """The server takes no search now."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServerFault(CosClientError):
    """The server could not carry out the search."""


class ServerUnreachable(CosClientError):
    """No connection to the server, or it was lost."""


class BadReply(CosClientError):
    """Something answered, but not as a cos server does."""
