"""What a policy and its session say of themselves, passed on by what stands before them."""

from collections.abc import Mapping
from typing import Any

from cos.engines.ports import Runtime
from cos.search.ports import Ability, Policy, PolicySession, ReportsLoad, Vocabulary
from cos.search.prompt import TurnMarks


class Wrapped:
    """Stands before a policy or a whole runtime."""

    def __init__(self, policy: Policy) -> None:
        self._wrapped = policy

    @property
    def vocabulary(self) -> Vocabulary:
        return self._wrapped.vocabulary

    @property
    def context_tokens(self) -> int:
        return self._wrapped.context_tokens

    @property
    def is_saturated(self) -> bool:
        """See `cos.search.ports.ReportsLoad`. What does not report its load has room."""
        return isinstance(self._wrapped, ReportsLoad) and self._wrapped.is_saturated


class WrappedRuntime(Wrapped):
    """Stands before a runtime, as a policy or as a PRM: all that `cos.prm.ports.Reader` asks but its sessions."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._runtime = runtime

    @property
    def abilities(self) -> frozenset[Ability]:
        return self._runtime.abilities

    @property
    def model(self) -> str:
        return self._runtime.model

    @property
    def config(self) -> Mapping[str, Any]:
        return self._runtime.config

    @property
    def files(self) -> frozenset[str]:
        return self._runtime.files

    def turn_marks(self) -> TurnMarks:
        return self._runtime.turn_marks()

    def reply_marks(self) -> TurnMarks:
        return self._runtime.reply_marks()


class WrappedSession:
    """Stands before a session."""

    def __init__(self, session: PolicySession) -> None:
        self._of = session

    @property
    def prompt_tokens(self) -> int:
        return self._of.prompt_tokens

    @property
    def tokens_aborted(self) -> int:
        return self._of.tokens_aborted
