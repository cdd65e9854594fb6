"""How busy an engine is."""

from dataclasses import dataclass


@dataclass(slots=True)
class Load:
    """How many requests an engine has, as of its last step."""

    running: int = 0
    waiting: int = 0
