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
    prm_format: str | None = None
    """The name of the format that the PRM is asked in."""
    prm_sees_pictures: bool = True
    """Whether that format shows the PRM a question's pictures. Where it does not, a reply about one warns of it."""
    question_suffix: str = ""
    """Put behind every question for the policy, on a line of its own."""
