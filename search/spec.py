"""What a caller asks of a search: strategy and parameters, sampling, ranking, limits. Validated once, at the edge."""

from typing import Any

from cos.search.budget import Limits
from cos.search.errors import InputError
from cos.search.scale import Aggregation, Scale
from cos.search.select import PROBABILITIES, Ruler, ScoreKind
from cos.search.strategies import BUILT_IN, Params, Strategy, parse_params, resolve, works_by_answers
from cos.search.terms import Sampling, Terms


class SearchSpec:
    """One search, fully specified."""

    def __init__(
        self,
        strategy: str,
        params: dict[str, Any] | None = None,
        *,
        sampling: Sampling | None = None,
        score: ScoreKind = "prm",
        aggregation: Aggregation | None = None,
        step_weight: float | None = None,
        limits: Limits | None = None,
        explain: bool = True,
        speculate: bool = True,
    ) -> None:
        """``aggregation``, ``step_weight``: those of the PRM's own scale unless given. ``explain``: score the winning
        chain's steps even where the strategy did not need them. ``speculate``: begin what is likely wanted next before
        it is decided; it changes the time a search takes, never its tree.

        Errors: InputError for an unknown strategy or parameter, naming it and what there is.
        """
        self.strategy: Strategy = resolve(strategy)
        self.params: Params = parse_params(self.strategy, params or {})
        self.sampling = sampling or Sampling()
        self.score: ScoreKind = score
        self.aggregation: Aggregation | None = aggregation
        self.step_weight = step_weight
        self.limits = limits or Limits()
        self.explain = explain
        self.speculate = speculate

    def ruler(self, scale: Scale | None) -> Ruler:
        """How chains are measured under a PRM of this scale; None is no PRM. Errors: InputError for an aggregation that
        means nothing on it, or a strategy that goes by scores which this PRM does not give."""
        scale = scale or PROBABILITIES
        if self.score == "prm" and scale.judges != "steps" and not works_by_answers(self.strategy):
            works = ", ".join(sorted(strategy.name for strategy in BUILT_IN if works_by_answers(strategy)))
            raise InputError(
                f"strategy {self.strategy.name!r} decides by the scores of steps, and this PRM judges whole answers; "
                f"ask for one of {works}",
                "strategy",
            )
        step_weight = scale.step_weight if self.step_weight is None else self.step_weight
        aggregation: Aggregation = scale.aggregation if self.aggregation is None else self.aggregation
        if self.score == "prm" and aggregation == "prod" and not scale.has_products:
            raise InputError(
                f"aggregation = 'prod', but this PRM's scores go from {scale.lowest:g} to {scale.highest:g}, where a "
                "product says nothing; ask for 'mean', 'min' or 'last'",
                "aggregation",
            )
        return Ruler(self.score, aggregation, step_weight, scale)

    def terms(self, scale: Scale | None) -> Terms:
        """The terms under a PRM of this scale; None is no PRM."""
        return Terms(sampling=self.sampling, ruler=self.ruler(scale), limits=self.limits, speculate=self.speculate)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What can hardly be meant, in words for whoever asked."""
        n: int = getattr(self.params, "n", 1)
        if self.sampling.temperature > 0 or n == 1:
            return ()
        return (f"at temperature 0 all {n} candidates are the same; raise it (1.0 is the default)",)
