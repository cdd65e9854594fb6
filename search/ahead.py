"""What a search begins before it is decided: what it will probably ask for next. A wrong guess costs tokens, never the
result: what was begun in vain is dropped and counted.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from cos.search.requests import Place, Requests
from cos.search.types import UNREADABLE, Chain, Path

Foresee = Callable[[Sequence[Chain]], Sequence[Place]]
"""What will be drawn next, were these chains all there is to know."""


class Ahead:
    """What one level has begun of the next: children of those that will probably survive.

    A candidate counts from the moment it is written. Until its score is there, what it will be worth is guessed.
    """

    def __init__(self, requests: Requests, foresee: Foresee, candidates: int, otherwise: Sequence[Place] = ()) -> None:
        """``candidates``: how many this level is to have. ``otherwise``: what is wanted should it not do."""
        self._requests = requests
        self._foresee = foresee
        self._unjudged = candidates
        self._otherwise = otherwise
        self._level: dict[Path, Chain] = {}
        self._begun: set[Path] = set()

    def begin(self) -> None:
        """Begins what is wanted should the level not do."""
        self._follow()

    def written(self, chain: Chain) -> None:
        """Takes in a candidate without a score."""
        self._level[chain.path] = chain
        self._follow()

    def judged(self, chain: Chain) -> None:
        """Takes in a score. After the last one nothing is left to guess."""
        self._level[chain.path] = chain
        self._unjudged -= 1
        if self._unjudged:
            self._follow()

    def decide(self, chains: Sequence[Chain]) -> None:
        """Takes in the whole level: keeps what is really wanted next."""
        if self._begun:
            self._drop_all_but(self._foresee(chains))

    def _follow(self) -> None:
        """Begins what is now likely, drops what no longer is."""
        # Asked first, as a guess costs time where engines are busy.
        if not self._begun and not self._requests.may_begin:
            return
        foreseen = self._foresee(guessed(self._level.values())) if self._level else ()
        likely = [*foreseen, *self._otherwise]
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
    share of its siblings that say it (what more say is more often right: Wang et al., arXiv 2203.11171). In path order.
    """
    chains = sorted(level, key=lambda chain: chain.path)
    known = {chain.token_ids: score for chain in chains if (score := chain.candidates[-1].score) is not None}
    siblings = Counter(chain.path[:-1] for chain in chains)
    agreeing = Counter((chain.path[:-1], chain.token_ids) for chain in chains)

    def guess(chain: Chain) -> Chain:
        newest, parent = chain.candidates[-1], chain.path[:-1]
        if newest.score is not None or newest.end in UNREADABLE:
            return chain
        share = agreeing[parent, chain.token_ids] / siblings[parent]
        return chain.judged(replace(newest, score=known.get(chain.token_ids, share)))

    return [guess(chain) for chain in chains]
