"""Weighted vote: n independent chains, the answer with the largest sum of chain scores.

Source: Li et al., arXiv 2206.02336, section 3.1 (voting verifier), with the paper's chain score as the weight. The
scores of chains with equal answers are added (in likelihood mode, the mean probabilities of their tokens). The best
chain of the winning answer wins. Without a single score it is self-consistency.
"""

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from cos.search.search import Search
from cos.search.strategies.base import MAX_WIDTH, Params, Strategy
from cos.search.types import Chain


class WeightedVoteParams(Params):
    """Parameters of the weighted vote."""

    n: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = 8
    """Chains to sample."""


class WeightedVote(Strategy):
    """The answer with the largest sum of chain scores."""

    name = "weighted_vote"
    aliases = ("weighted_majority",)
    params = WeightedVoteParams
    needs_scores = True
    takes_answer_scores = True

    async def run(self, search: Search, params: WeightedVoteParams) -> Chain:
        chains = await search.sample(params.n, scored=True)
        await search.compare(chains)
        groups = await search.groups(chains)
        winner = search.rank(max(groups, key=lambda group: weight(search, group)) if groups else chains)[0]
        search.select([winner], chains)
        return winner


def weight(search: Search, group: Sequence[Chain]) -> tuple[float, int]:
    """The sum of the scores of an answer's chains; where that is equal, their number decides."""
    return math.fsum(search.confidence(chain) or 0.0 for chain in group), len(group)
