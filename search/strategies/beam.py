"""Step beam search: n candidates a level, drawn from the beam_width best chains of the level before.

Source: Snell et al., arXiv 2408.03314, as step-level search over the paper's PRM (section 4.3.2). Chains are ranked by
their score so far (under the "cos" aggregation the mean of their steps' scores). Chains that say the same count once. A
chain that answers while it ranks among the survivors leaves the beam together with its place, so later levels are
narrower. The best answered chain wins.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from pydantic import Field, model_validator

from cos.search.search import Search
from cos.search.strategies.base import MAX_WIDTH, Params, Strategy
from cos.search.types import Chain


class BeamParams(Params):
    """Parameters of step beam search."""

    n: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = 8
    """Candidates of a level, over all chains of the beam."""
    beam_width: Annotated[int, Field(ge=1, le=MAX_WIDTH)] | None = None
    """Chains kept after each level; a quarter of n unless given."""

    @model_validator(mode="after")
    def _width_fits(self) -> "BeamParams":
        if self.beam_width is not None and self.beam_width > self.n:
            raise ValueError(f"beam_width = {self.beam_width} is more than n = {self.n}; choose n >= beam_width")
        return self

    @property
    def width(self) -> int:
        return self.beam_width or max(1, self.n // 4)


class Beam(Strategy):
    """Keep the beam_width best of n candidates, level by level."""

    name = "beam"
    aliases = ("beam_search",)
    params = BeamParams
    needs_scores = True

    async def run(self, search: Search, params: BeamParams) -> Chain:
        done, places, wanted = list[Chain](), params.width, [(search.root, params.n)]
        while wanted:
            level = await search.expand(wanted, then=partial(plan, search, params, places))
            survivors = best(search, level, places)
            search.select(survivors, level)
            wanted = children(params, places, survivors)
            done += [chain for chain in survivors if chain.is_last]
            places -= sum(chain.is_last for chain in survivors)
        return search.rank(done)[0]


def plan(search: Search, params: BeamParams, places: int, level: Sequence[Chain]) -> list[tuple[Chain, int]]:
    """What is expanded after a level."""
    return children(params, places, best(search, level, places))


def best(search: Search, level: Sequence[Chain], places: int) -> list[Chain]:
    """The chains of a level that survive."""
    return search.rank_level(search.distinct(level))[:places]


def children(params: BeamParams, places: int, survivors: Sequence[Chain]) -> list[tuple[Chain, int]]:
    """How many children each survivor is to have: the width of n narrows with the places that are left."""
    beam = [chain for chain in survivors if not chain.is_last]
    return spread(beam, params.n * (places - len(survivors) + len(beam)) // params.width) if beam else []


def spread(beam: Sequence[Chain], n: int) -> list[tuple[Chain, int]]:
    """n candidates over the chains of a beam, as evenly as can be, the better chains first served."""
    each, more = divmod(n, len(beam))
    return [(chain, each + (index < more)) for index, chain in enumerate(beam) if each + (index < more)]
