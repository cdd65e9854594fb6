"""Diverse verifier tree search: independent sub-trees, each of which follows its best step; the best chain wins.

Source: Beeching, Tunstall and Rush, "Scaling test-time compute with open models" (2024). n candidates a level are
shared by n / beam_width sub-trees of beam_width children each. Deviations: a sub-tree never waits for another, and one
that answers stops while the others go on. With beam_width = n it is greedy_prm, ranked by
the chain's score so far.
"""

from functools import partial
from typing import Annotated

from pydantic import Field, model_validator

from cos.search.search import Search
from cos.search.strategies.base import MAX_WIDTH, Params, Strategy
from cos.search.strategies.greedy_prm import descend
from cos.search.types import Chain


class DvtsParams(Params):
    """Parameters of diverse verifier tree search."""

    n: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = 8
    """Candidates of a level, over all sub-trees."""
    beam_width: Annotated[int, Field(ge=1, le=MAX_WIDTH)] | None = None
    """Children of a sub-tree's chain, of which it keeps one; half of n unless given."""

    @model_validator(mode="after")
    def _width_divides(self) -> "DvtsParams":
        if self.beam_width is not None and self.n % self.beam_width:
            raise ValueError(f"beam_width = {self.beam_width} does not divide n = {self.n}; choose n as its multiple")
        return self

    @property
    def subtrees(self) -> int:
        return self.n // self.beam_width if self.beam_width else (2 if self.n % 2 == 0 else 1)


class Dvts(Strategy):
    """The best chain of independent sub-trees."""

    name = "dvts"
    aliases = ()
    params = DvtsParams
    needs_scores = True

    async def run(self, search: Search, params: DvtsParams) -> Chain:
        ranked = search.rank(await search.apart([partial(subtree, params)] * params.subtrees))
        search.select(ranked[:1], ranked)
        return ranked[0]


async def subtree(params: DvtsParams, search: Search) -> Chain:
    """The chain of one sub-tree."""
    return await descend(search, params.n // params.subtrees, search.rank_level)
