"""A policy and the PRM that judges it, matched: grammar and format found fit for each other."""

from dataclasses import dataclass

from cos.prm.cos import CosPrm
from cos.prm.ports import Reader
from cos.search.grammar import CosGrammar
from cos.search.ports import Policy, Scorer


@dataclass(frozen=True, slots=True)
class Pair:
    """All that `cos.search.run.run` needs beside a question and a spec."""

    policy: Policy
    scorer: Scorer | None
    grammar: CosGrammar


def pair(policy: Policy, reader: Reader | None) -> Pair:
    """Matches two engines; ``reader`` None is search without a PRM.

    Errors: InputError when the policy lacks the step tokens or the PRM its tag and labels.
    """
    grammar = CosGrammar(policy.vocabulary)
    return Pair(policy, None if reader is None else CosPrm(reader, policy.vocabulary), grammar)
