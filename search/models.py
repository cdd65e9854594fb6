"""The models of a search, matched: a policy, the grammar that it writes in, and the PRM that judges it."""

from dataclasses import dataclass

from cos.search.grammar import Grammar
from cos.search.ports import Policy, Scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """All that a search asks. `cos.prm.matching.match` makes it of two runtimes."""

    policy: Policy
    grammar: Grammar
    scorer: Scorer | None = None
    """None is a search without a PRM."""
    question_suffix: str = ""
    """Put behind every question for the policy, on a line of its own."""
