"""What a level begins of the next one while its own stragglers still run and scores are not there yet."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from cos.search.place import Place
from cos.search.scale import Scale
from cos.search.speculation import Speculation
from cos.search.types import UNREADABLE, Chain, Path

Predict = Callable[[Sequence[Chain]], Sequence[Place]]
"""What will be drawn next, were these chains all there is to know."""


class Ahead:
    """What one level has begun of the next: children of those that will probably survive.

    A candidate counts from the moment it is written. Until its score is there, it is guessed.
    """

    def __init__(
        self,
        speculation: Speculation,
        predict: Predict,
        scale: Scale,
        candidates: int,
        otherwise: Sequence[Place] = (),
    ) -> None:
        """``candidates``: how many this level is to have. ``otherwise``: what is wanted should it not do."""
        self._speculation = speculation
        self._predict = predict
        self._scale = scale
        self._unscored = candidates
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

    def scored(self) -> None:
        """Takes in that one candidate has its score. After the last one nothing is left to guess."""
        self._unscored -= 1
        if self._unscored:
            self._follow()

    def decide(self, chains: Sequence[Chain]) -> None:
        """Takes in the whole level: keeps what is really wanted next."""
        if self._begun:
            self._drop_all_but(self._predict(chains))

    def _follow(self) -> None:
        """Begins what is now likely, drops what no longer is."""
        # Asked first, as a guess costs time where engines are busy.
        if not self._begun and not self._speculation.may_begin:
            return
        predicted = self._predict(guessed(self._level.values(), self._scale)) if self._level else ()
        likely = [*predicted, *self._otherwise]
        self._drop_all_but(likely)
        for place in likely:
            if not self._speculation.may_begin:
                break
            self._speculation.begin(place)
            self._begun.add(place.path)

    def _drop_all_but(self, places: Sequence[Place]) -> None:
        stale = self._begun.difference(place.path for place in places)
        self._begun -= stale
        self._speculation.drop(stale)


def guessed(level: Iterable[Chain], scale: Scale) -> list[Chain]:
    """The chains of a level, those without a score with a guess: the score of another that says the same, or else the
    share of its siblings that say it (what more say is more often right: Wang et al., arXiv 2203.11171). In path order.
    On a scale without ends there is nothing to guess by, and they stay without.
    """
    chains = sorted(level, key=lambda chain: chain.path)
    known = {chain.prefix: score for chain in chains if (score := chain.candidates[-1].score) is not None}
    siblings = Counter(chain.path[:-1] for chain in chains)
    agreeing = Counter((chain.path[:-1], chain.prefix) for chain in chains)

    def guess(chain: Chain) -> Chain:
        newest, parent = chain.candidates[-1], chain.path[:-1]
        if newest.score is not None or newest.end in UNREADABLE:
            return chain
        share = agreeing[parent, chain.prefix] / siblings[parent]
        return chain.with_newest(replace(newest, score=known.get(chain.prefix, scale.at(share))))

    return [guess(chain) for chain in chains]
