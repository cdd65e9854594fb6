"""One chain, the likeliest token each time. No search; the baseline of every search."""

from cos.search.search import Search
from cos.search.strategies.base import Params, Strategy
from cos.search.types import Chain


class GreedyParams(Params):
    """None."""


class Greedy(Strategy):
    """One chain at temperature 0."""

    name = "greedy"
    aliases = ()
    params = GreedyParams
    needs_scores = False

    async def run(self, search: Search, params: GreedyParams) -> Chain:
        return (await search.sample(1, scored=False, temperature=0.0))[0]
