"""What a policy and its session say of themselves, passed on by what stands before them."""

from cos.search.ports import Policy, PolicySession, ReportsLoad, Vocabulary


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
