"""What an engine says of itself, passed on by what stands before it."""

from typing import Protocol

from cos.search.ports import Vocabulary


class _Engine(Protocol):
    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def context_tokens(self) -> int: ...

    @property
    def is_saturated(self) -> bool: ...


class _Session(Protocol):
    @property
    def prompt_tokens(self) -> int: ...

    @property
    def tokens_aborted(self) -> int: ...


class Wrapped:
    """Stands before an engine."""

    def __init__(self, engine: _Engine) -> None:
        self._wrapped = engine

    @property
    def vocabulary(self) -> Vocabulary:
        return self._wrapped.vocabulary

    @property
    def context_tokens(self) -> int:
        return self._wrapped.context_tokens

    @property
    def is_saturated(self) -> bool:
        return self._wrapped.is_saturated


class WrappedSession:
    """Stands before one question on an engine."""

    def __init__(self, session: _Session) -> None:
        self._of = session

    @property
    def prompt_tokens(self) -> int:
        return self._of.prompt_tokens

    @property
    def tokens_aborted(self) -> int:
        return self._of.tokens_aborted
