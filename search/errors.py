"""What can go wrong in a search, told by whose fault it is.

CosError
+-- InputError        the caller's: a bad value, named together with the fix
|   +-- BadImage      bytes that are no usable picture
+-- BudgetExhausted   nobody's: a limit was reached; the search answers with what it has
+-- EngineError       an engine failed one request; a sibling may still succeed
|   +-- ChainTooLong  the model has no room for a chain; it never will have
|   +-- EngineDead    an engine is gone; nothing more can come from it
+-- SearchFailed      a search ended with nothing to show
"""

from typing import Literal

BudgetKind = Literal["tokens", "prm_reads", "seconds"]


class CosError(Exception):
    """Any error of ours."""


class InputError(CosError):
    """A value the caller gave cannot be used. ``param`` names it; the message says the value and the fix."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


ImageFault = Literal[
    "empty", "not_base64", "not_an_image", "too_large", "aspect_ratio", "broken", "unreadable", "address"
]
"""What is wrong with a picture: nothing in it, no base64, no image format that is read, too many pixels or bytes, one
side far longer than the other, pixels that cannot be decoded, a file that cannot be read, an address in its place."""


class BadImage(InputError):
    """A picture that cannot be used."""

    def __init__(self, message: str, param: str, fault: ImageFault) -> None:
        super().__init__(message, param)
        self.fault: ImageFault = fault


class BudgetExhausted(CosError):
    """A limit of the budget was reached."""

    def __init__(self, kind: BudgetKind, limit: float) -> None:
        super().__init__(f"the budget of {limit:g} {kind} is spent")
        self.kind: BudgetKind = kind
        self.limit = limit


class EngineError(CosError):
    """An engine could not carry out one request."""


class ChainTooLong(EngineError):
    """A model's context has no room for a chain: asking again is of no use, and a part of it is no chain."""


class EngineDead(EngineError):
    """An engine process has died or was shut down."""


class SearchFailed(CosError):
    """No chain came out of a search: a limit came first."""

    def __init__(self, message: str, limit: str) -> None:
        super().__init__(message)
        self.limit = limit
        """Which: a reason of `cos.search.types.FinishReason`."""
