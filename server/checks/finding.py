"""What one check has found."""

import logging
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from cos.search.errors import InputError

logger = logging.getLogger(__name__)

State = Literal["ok", "warning", "refused"]


class Unusable(InputError):
    """Models that cannot be served with."""


class Finding(Struct, frozen=True, kw_only=True):
    """One row of `cos check`."""

    name: str
    """Of the check."""
    state: State
    """"refused": with these models no server starts."""
    found: str
    todo: str = ""
    """What the user can do about it; empty only where all is well."""
    param: str = "policy"
    """The setting that is to blame."""
    is_logged: bool = True
    """Whether a start logs it as a warning; not what is logged once the models run, whoever runs them."""

    def __post_init__(self) -> None:
        """Errors: ValueError for a finding that leaves the user alone."""
        if self.state != "ok" and not self.todo:
            raise ValueError(f"{self.name}: {self.found!r} must say what to do")

    @property
    def message(self) -> str:
        """What was found and what to do, in one line."""
        return f"{self.found}; {self.todo}" if self.todo else self.found

    @property
    def error(self) -> Unusable:
        """The same as an error."""
        return Unusable(self.message, self.param)


def refused(name: str, error: InputError, todo: str) -> Finding:
    """An error as a finding. ``todo``: what to do where the error itself does not say."""
    found, _, own = str(error).partition("; ")
    return Finding(name=name, state="refused", found=found, todo=own or todo, param=error.param)


def is_refused(findings: Iterable[Finding]) -> bool:
    return any(finding.state == "refused" for finding in findings)


def heed(findings: Iterable[Finding]) -> None:
    """Logs warnings. Errors: Unusable for the first that is refused."""
    for finding in findings:
        if finding.state == "refused":
            raise finding.error
        if finding.state == "warning" and finding.is_logged:
            logger.warning("%s", finding.message)
