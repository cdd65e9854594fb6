"""Lookahead search: step beam search that ranks a candidate by where a short rollout from it leads.

Source: Snell et al., arXiv 2408.03314, section 5.2: every candidate is continued by some steps at temperature 0, and
the score at the end of that rollout stands for it. Rollouts are part of the tree and of the cost. Only their scores are
used, except that a search without an answer of its own may take the answer of a rollout.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from cos.search.search import Search
from cos.search.strategies.base import Strategy
from cos.search.strategies.beam import BeamParams, spread
from cos.search.types import Chain


class LookaheadParams(BeamParams):
    """Parameters of lookahead search."""

    lookahead: Annotated[int, Field(ge=0, le=16)] = 1
    """Steps of a rollout. 0 is step beam search."""


class Lookahead(Strategy):
    """Beam search that looks some steps ahead."""

    name = "lookahead"
    aliases = ("lookahead_search",)
    params = LookaheadParams
    needs_scores = True

    async def run(self, search: Search, params: LookaheadParams) -> Chain:
        done, seen, places, wanted = list[Chain](), list[Chain](), params.width, [(search.root, params.n)]
        while wanted:
            level = search.distinct(await search.expand(wanted))
            ends = await rollouts(search, level, params.lookahead)
            survivors = rank_by_ends(search, level, ends)[:places]
            search.select(survivors, level)
            done += [chain for chain in survivors if chain.is_last]
            seen += [end for end in ends if end.is_answered]
            places -= sum(chain.is_last for chain in survivors)
            beam = [chain for chain in survivors if not chain.is_last]
            wanted = spread(beam, params.n * places // params.width) if beam else []
        return search.rank(done if any(chain.is_answered for chain in done) else [*done, *seen])[0]


async def rollouts(search: Search, level: Sequence[Chain], steps: int) -> list[Chain]:
    """Where each chain of a level leads; a chain that has ended, or whose rollout failed, is its own end."""
    going_on = [chain for chain in level if not chain.is_last]
    if not steps or not going_on:
        return list(level)
    found = await search.finish(going_on, scored=True, temperature=0.0, steps=steps)
    ends = {end.path[: len(going_on[0].path)]: end for end in found}
    return [ends.get(chain.path, chain) for chain in level]


def rank_by_ends(search: Search, level: Sequence[Chain], ends: Sequence[Chain]) -> list[Chain]:
    """The chains of a level in the order of their ends."""
    order = {end.path: index for index, end in enumerate(search.rank_level(ends))}
    leads = {chain.path: order[end.path] for chain, end in zip(level, ends, strict=True)}
    return sorted(level, key=lambda chain: leads[chain.path])
