"""What a caller asks of a search: strategy and parameters, sampling, ranking, limits. Validated once, at the edge."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from cos.search.budget import Limits
from cos.search.select import Aggregation, Ruler, ScoreKind
from cos.search.strategies import Params, Strategy, parse_params, resolve


class Sampling(BaseModel):
    """How the policy samples."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Sampling temperature of the policy. The greedy strategy always uses 0, and auto for a step's first candidate."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling threshold."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Root seed; every candidate's own seed follows from it and its place in the tree."""
    step_tokens: Annotated[int, Field(ge=1, le=8192)] = 512
    """Longest step, in tokens."""
    max_steps: Annotated[int, Field(ge=1, le=64)] = 16
    """Most steps before the answer; a chain whose next segment is yet another step ends there without one."""


class SearchSpec:
    """One search, fully specified."""

    def __init__(
        self,
        strategy: str,
        params: dict[str, Any] | None = None,
        *,
        sampling: Sampling | None = None,
        score: ScoreKind = "prm",
        aggregation: Aggregation = "cos",
        step_weight: float = 0.2,
        limits: Limits | None = None,
        explain: bool = True,
        speculate: bool = True,
    ) -> None:
        """``explain``: score the winning chain's steps even where the strategy did not need them. ``speculate``: begin
        what is likely wanted next before it is decided; it changes the time a search takes, never its tree.

        Errors: InputError for an unknown strategy or parameter, naming it and what there is.
        """
        self.strategy: Strategy = resolve(strategy)
        self.params: Params = parse_params(self.strategy, params or {})
        self.sampling = sampling or Sampling()
        self.ruler = Ruler(score, aggregation, step_weight)
        self.limits = limits or Limits()
        self.explain = explain
        self.speculate = speculate

    @property
    def doubts(self) -> tuple[str, ...]:
        """What can hardly be meant, in words for whoever asked."""
        n: int = getattr(self.params, "n", 1)
        if self.sampling.temperature > 0 or n == 1:
            return ()
        return (f"at temperature 0 all {n} candidates are the same; raise it (1.0 is the default)",)
