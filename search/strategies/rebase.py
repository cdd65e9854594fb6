"""REBASE: each level's candidates are shared out among the chains by a softmax of their scores.

Source: Wu et al., arXiv 2408.00724, section 3.2. Deviations: shares are rounded by largest remainders, so that a level
has exactly its width; chains that say the same count once; the best answered chain wins, where the source also votes. A
chain that ends takes one candidate of every later level with it, as in the source.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated

from pydantic import Field

from cos.search.search import Search
from cos.search.strategies.base import MAX_WIDTH, Params, Strategy
from cos.search.types import Chain


class RebaseParams(Params):
    """Parameters of REBASE."""

    n: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = 8
    """Candidates of the first level."""
    balance: Annotated[float, Field(gt=0, le=10)] = 0.2
    """Temperature of the softmax: a small one gives all to the best chain, a large one the same to each."""


class Rebase(Strategy):
    """Share a level's candidates by a softmax of scores."""

    name = "rebase"
    aliases = ()
    params = RebaseParams
    needs_scores = True

    async def run(self, search: Search, params: RebaseParams) -> Chain:
        done, width, wanted = list[Chain](), params.n, [(search.root, params.n)]
        while wanted:
            plan = partial(shares, search, params, width)
            level = await search.expand(wanted, then=plan)
            done += [chain for chain in level if chain.is_last]
            wanted = plan(level)
            width -= sum(chain.is_last for chain in level)
            search.select([chain for chain, _ in wanted], level)
        return search.rank(done)[0]


def shares(search: Search, params: RebaseParams, width: int, level: Sequence[Chain]) -> list[tuple[Chain, int]]:
    """How many children each chain of a level is to have."""
    chains = search.rank_level([chain for chain in search.distinct(level) if not chain.is_last])
    left = width - sum(chain.is_last for chain in level)
    if not chains or left < 1:
        return []
    worth = [search.confidence(chain) for chain in chains]
    top = max((value for value in worth if value is not None), default=0.0)
    weights = [0.0 if value is None else math.exp((value - top) / params.balance) for value in worth]
    counts = apportion(weights if any(weights) else [1.0] * len(chains), left)
    return [(chain, count) for chain, count in zip(chains, counts, strict=True) if count]


def apportion(weights: Sequence[float], n: int) -> list[int]:
    """n as whole shares by weight; what rounding leaves goes to the largest remainders, then to who comes first."""
    total = math.fsum(weights)
    exact = [n * weight / total for weight in weights]
    counts = [math.floor(share) for share in exact]
    order = sorted(range(len(exact)), key=lambda index: (counts[index] - exact[index], index))
    for index in order[: n - sum(counts)]:
        counts[index] += 1
    return counts
