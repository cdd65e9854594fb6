"""A policy and the PRM that judges it, matched: each by the format that it was trained in."""

from cos.prm import menu
from cos.prm.ports import Judged, Reader
from cos.search import grammars
from cos.search.models import Models
from cos.search.ports import Policy


def match(
    policy: Policy,
    prm: Reader | None,
    *,
    grammar: str = grammars.AUTO,
    prm_format: str = menu.AUTO,
    policy_suffix: str = "",
    prm_suffix: str = "",
    verdict_tokens: int | None = None,
) -> Models:
    """Finds the grammar of a policy and the format of a PRM; ``prm`` None is search without a PRM.

    ``policy_suffix`` and ``prm_suffix`` are put behind every question for that model, on a line of its own. A policy
    that is its own PRM has ``policy_suffix`` in both places, and so one prompt. ``verdict_tokens``: the
    most that a PRM may write for one verdict.

    Errors: InputError for an unknown name, or naming what the policy lacks for its grammar or the PRM for its format.
    """
    chosen = grammars.choose(grammar, policy.vocabulary)
    if prm is None:
        return Models(policy=policy, grammar=chosen, question_suffix=policy_suffix)
    judged = Judged(
        vocabulary=policy.vocabulary,
        grammar=chosen,
        question_suffix=policy_suffix if id(prm) == id(policy) else prm_suffix,
        verdict_tokens=verdict_tokens,
    )
    scorer = menu.choose(prm_format, prm, judged)
    return Models(
        policy=policy,
        grammar=chosen,
        scorer=scorer,
        prm_format=scorer.name,
        # A format of somebody else's need not inherit from the port.
        prm_sees_pictures=getattr(scorer, "sees_pictures", True),
        question_suffix=policy_suffix,
    )


def unseen_pictures(models: Models) -> tuple[str, str] | None:
    """What is to be said of a PRM that is shown no pictures, and what can be done; None where there is none, or where
    it sees them."""
    if models.scorer is None or models.prm_sees_pictures:
        return None
    return (
        f"PRM format {models.prm_format!r} shows the PRM no pictures: it judges the text alone",
        "give a PRM that sees pictures where steps depend on them",
    )
