"""Clients of a cos server: `Client` and `AsyncClient` for Python, the ``cos`` command for the terminal.

What goes over the wire is defined in `cos.wire`; its names can be imported from here, too.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cos.clients.async_client import AsyncClient
    from cos.clients.client import Client
    from cos.clients.errors import CosClientError
    from cos.wire.events import Answered, Event, Opened, Proposed, Scored, Selected
    from cos.wire.reply import Candidate, Solution
    from cos.wire.score import Scores

_HOMES = {
    "cos.clients.async_client": ("AsyncClient",),
    "cos.clients.client": ("Client",),
    "cos.clients.errors": ("CosClientError",),
    "cos.wire.events": ("Answered", "Event", "Opened", "Proposed", "Scored", "Selected"),
    "cos.wire.reply": ("Candidate", "Solution"),
    "cos.wire.score": ("Scores",),
}

__all__ = [
    "Answered",
    "AsyncClient",
    "Candidate",
    "Client",
    "CosClientError",
    "Event",
    "Opened",
    "Proposed",
    "Scored",
    "Scores",
    "Selected",
    "Solution",
]


def __getattr__(name: str) -> Any:
    """Loads a name when it is first used, so that ``cos --help`` waits for neither httpx nor pydantic."""
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
