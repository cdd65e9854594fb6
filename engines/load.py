"""How busy an engine is."""

from dataclasses import dataclass

HIGH_SHARE = 8
"""An engine that runs one in so many of the sequences it has room for has enough to do."""


@dataclass(slots=True)
class Load:
    """How many requests an engine has, as of its last step."""

    running: int = 0
    waiting: int = 0
    steps: int = 0
    """How many steps it has taken."""

    def is_high(self, most: int) -> bool:
        """Whether requests wait for a place, or so many of ``most`` run that each one more slows the others down."""
        return self.waiting > 0 or self.running * HIGH_SHARE >= most
