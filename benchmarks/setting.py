"""How an evaluated search is set: strategy, width, sampling, ranking."""

from dataclasses import dataclass, replace
from typing import Any

from cos.search.errors import InputError
from cos.search.models import Models
from cos.search.scale import Aggregation
from cos.search.select import ScoreKind
from cos.search.spec import SearchSpec
from cos.search.strategies import resolve
from cos.search.terms import parse_sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to search, without its seed. None is the strategy's own default, or the PRM's own aggregation."""

    strategy: str
    n: int | None = None
    beam_width: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    score: ScoreKind = "prm"
    aggregation: Aggregation | None = None

    def spec(self, seed: int, *, explain: bool = False, speculate: bool = True) -> SearchSpec:
        """The search under a root seed. Errors: InputError naming the value that cannot be used."""
        given = {"n": self.n, "beam_width": self.beam_width}
        return SearchSpec(
            self.strategy,
            {name: value for name, value in given.items() if value is not None},
            sampling=parse_sampling({"temperature": self.temperature, "top_p": self.top_p, "seed": seed}),
            score=self.score,
            aggregation=self.aggregation,
            explain=explain,
            speculate=speculate,
        )

    def fitted(self) -> "Setting":
        """The same under the strategy's own name, without an ``n`` where the strategy takes none.

        Errors: InputError for values that cannot be used, so that they are known before an engine starts.
        """
        strategy = resolve(self.strategy)
        fitted = replace(self, strategy=strategy.name, n=self.n if "n" in strategy.params.model_fields else None)
        fitted.spec(seed=0)
        return fitted

    def under(self, models: Models) -> "Setting":
        """The same, with the aggregation that is in force with these models."""
        ruler = self.spec(seed=0).ruler(None if models.scorer is None else models.scorer.scale)
        return replace(self, aggregation=ruler.aggregation)

    def facts(self) -> dict[str, Any]:
        """As it goes into a report; a strategy that takes no ``n`` draws one chain."""
        return {
            "strategy": self.strategy,
            "n": self.n or 1,
            "beam_width": self.beam_width,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "score": self.score,
            "aggregation": self.aggregation,
        }


def parse_baseline(text: str, like: Setting) -> Setting:
    """``NAME`` or ``NAME@N``: another strategy under otherwise equal settings. Errors: InputError."""
    name, at, width = text.partition("@")
    if at and not (width.isdecimal() and int(width) > 0):
        raise InputError(f"--against {text}: {width!r} is no number of chains; write NAME or NAME@N", "against")
    return replace(like, strategy=name, n=int(width) if at else like.n, beam_width=None).fitted()
