"""What can go wrong with a vLLM elsewhere. Each error names the address, what came back, and what to do."""

from cos.search.errors import EngineDead, EngineError


class RemoteError(EngineError):
    """A vLLM elsewhere could not carry out one request."""


class RemoteDead(RemoteError, EngineDead):
    """A vLLM elsewhere cannot be reached. Every request fails until it is back."""


class RemoteRefusal(RemoteError):
    """It answered, and will not do what it was asked."""

    def __init__(self, message: str, status: int, told: str) -> None:
        super().__init__(message)
        self.status = status
        self.told = told
        """In its own words."""
        self.retry_after_s: float | None = None
        """How long it wants to be left alone."""
