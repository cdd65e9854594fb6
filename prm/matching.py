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
) -> Models:
    """Finds the grammar of a policy and the format of a PRM; ``prm`` None is search without a PRM.

    ``policy_suffix`` and ``prm_suffix`` are put behind every question for that model, on a line of its own.

    Errors: InputError for an unknown name, or naming what the policy lacks for its grammar or the PRM for its format.
    """
    chosen = grammars.choose(grammar, policy.vocabulary)
    scorer = None
    if prm is not None:
        judged = Judged(vocabulary=policy.vocabulary, grammar=chosen, question_suffix=prm_suffix)
        scorer = menu.choose(prm_format, prm, judged)
    return Models(policy=policy, grammar=chosen, scorer=scorer, question_suffix=policy_suffix)
