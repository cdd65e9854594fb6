"""What an expansion begins before it is decided: children of those that will probably survive.

A candidate counts from the moment it is written. Until its score is there, what it will be worth is guessed: what has
been said by more of its siblings is more likely right (self-consistency, Wang et al., arXiv 2203.11171). A wrong guess
costs tokens, never the result: what was begun in vain is dropped and counted.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from cos.search.requests import Place, Requests
from cos.search.types import UNREADABLE, Chain, Path

Foresee = Callable[[Sequence[Chain]], Sequence[Place]]
"""What would be drawn next, were a level's chains these."""


class Ahead:
    """One level, as far as it is known."""

    def __init__(self, requests: Requests, foresee: Foresee, candidates: int) -> None:
        """``candidates``: how many the level is to have."""
        self._requests = requests
        self._foresee = foresee
        self._unjudged = candidates
        self._level: dict[Path, Chain] = {}
        self._begun: set[Path] = set()

    def written(self, chain: Chain) -> None:
        """Takes in a new candidate; begins what is now likely, drops what no longer is."""
        self._level[chain.path] = chain
        if self._unjudged and self._requests.may_begin:
            self._follow(self._foresee(guessed(self._level.values())))

    def judged(self, chain: Chain) -> None:
        """The same once its score is there. With the last one nothing is left to guess."""
        self._unjudged -= 1
        self.written(chain)

    def decide(self, chains: Sequence[Chain]) -> None:
        """Keeps what is really wanted next."""
        if self._begun:
            self._drop_all_but(self._foresee(chains))

    def _follow(self, likely: Sequence[Place]) -> None:
        self._drop_all_but(likely)
        for place in likely:
            if not self._requests.may_begin:
                break
            self._requests.begin(place)
            self._begun.add(place.path)

    def _drop_all_but(self, places: Sequence[Place]) -> None:
        stale = self._begun.difference(place.path for place in places)
        self._begun -= stale
        self._requests.drop(stale)


def guessed(level: Iterable[Chain]) -> list[Chain]:
    """The chains of a level, those without a score with a guess: the score of another that says the same, or else the
    share of its siblings that say it. In path order."""
    chains = sorted(level, key=lambda chain: chain.path)
    known = {chain.token_ids: score for chain in chains if (score := chain.candidates[-1].score) is not None}
    siblings = Counter(chain.path[:-1] for chain in chains)
    agreeing = Counter((chain.path[:-1], chain.token_ids) for chain in chains)

    def guess(chain: Chain) -> Chain:
        newest, parent = chain.candidates[-1], chain.path[:-1]
        if newest.score is not None or newest.end in UNREADABLE:
            return chain
        share = agreeing[parent, chain.token_ids] / siblings[parent]
        return Chain((*chain.candidates[:-1], replace(newest, score=known.get(chain.token_ids, share))))

    return [guess(chain) for chain in chains]
