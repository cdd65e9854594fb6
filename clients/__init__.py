"""Clients of a cos server: `Client` and `AsyncClient` for Python, the ``cos`` command for the terminal."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cos.clients.async_client import AsyncClient
    from cos.clients.client import Client
    from cos.clients.errors import CosClientError
    from cos.wire.reply import Event, Solution

__all__ = ["AsyncClient", "Client", "CosClientError", "Event", "Solution"]

_HOMES = {
    "AsyncClient": "cos.clients.async_client",
    "Client": "cos.clients.client",
    "CosClientError": "cos.clients.errors",
    "Event": "cos.wire.reply",
    "Solution": "cos.wire.reply",
}


def __getattr__(name: str) -> Any:
    """Loads a name when it is first used, so that ``cos --help`` waits for neither httpx nor pydantic."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
