"""A request turned into a search: names resolved, defaults filled in, limits checked, all of it written down."""

import secrets
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from cos.search.budget import Limits
from cos.search.errors import InputError
from cos.search.scale import Scale
from cos.search.select import ScoreKind
from cos.search.spec import SearchSpec
from cos.search.strategies import Strategy, menu, parse_params, resolve
from cos.search.strategies.base import MAX_WIDTH
from cos.search.terms import Sampling, parse_sampling
from cos.search.types import Question
from cos.server.errors import UnknownField
from cos.server.settings import Settings
from cos.wire.job import Job
from cos.wire.request import BudgetOptions, SearchOptions


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans jobs for one server."""

    settings: Settings
    scale: Scale | None
    """What its PRM's scores mean; None is a server without one."""

    def plan(self, question: Question, options: SearchOptions, warnings: Iterable[str] = ()) -> Job:
        """Errors: InputError naming the field, the value and what is allowed; UnknownField."""
        strategy = resolve(options.strategy or self.settings.strategy)
        spec = SearchSpec(
            strategy.name,
            self._params(strategy, options),
            sampling=_sampling(options),
            score=self._score(options),
            limits=self._limits(options.budget or BudgetOptions()),
            **_given(options, ("aggregation", "step_weight", "speculate")),
        )
        spec.ruler(self.scale)  # Refuses an aggregation that means nothing on the PRM's scale.
        return Job(
            id=f"solve-{uuid.uuid4().hex}",
            model=self.settings.model_name,
            question=question,
            spec=spec,
            scale=self.scale,
            return_tree=options.return_tree,
            warnings=tuple(warnings),
        )

    def _params(self, strategy: Strategy, options: SearchOptions) -> dict[str, Any]:
        further = options.model_extra or {}
        _refuse_unknown(further)
        params = {**_given(options, ("n", "beam_width")), **further}
        largest, fields = self.settings.max_n, strategy.params.model_fields
        if "n" in fields and "n" not in params:
            default = self.settings.n or fields["n"].default
            params["n"] = _fitting(strategy, params, min(default, largest)) if isinstance(default, int) else default
        if isinstance(n := params.get("n"), int) and n > largest:
            raise InputError(f"n = {n} is above this server's limit of {largest} (--max-n)", "n")
        return params

    def _score(self, options: SearchOptions) -> ScoreKind:
        if options.score == "prm" and self.scale is None:
            raise InputError(
                "score = 'prm', but this server runs without a PRM; leave it out or ask for 'likelihood'", "score"
            )
        return options.score or ("prm" if self.scale is not None else "likelihood")

    def _limits(self, budget: BudgetOptions) -> Limits:
        most_tokens, most_seconds = self.settings.max_tokens_per_search, self.settings.timeout_s
        if budget.tokens is not None and budget.tokens > most_tokens:
            raise InputError(
                f"budget.tokens = {budget.tokens} is above this server's limit of {most_tokens} "
                "(--max-tokens-per-search)",
                "budget.tokens",
            )
        if budget.seconds is not None and budget.seconds > most_seconds:
            raise InputError(
                f"budget.seconds = {budget.seconds:g} is above this server's limit of {most_seconds:g} (--timeout-s)",
                "budget.seconds",
            )
        return Limits(
            tokens=budget.tokens or most_tokens,
            prm_reads=budget.prm_reads,
            seconds=budget.seconds or most_seconds,
        )


def _fitting(strategy: Strategy, given: Mapping[str, Any], wanted: int) -> int:
    """The server's default for ``n``, or the largest below it that the strategy takes together with what the request
    gave. If there is none, the default: what is wrong then is the request's, and becomes its error."""
    for n in (wanted, *range(min(wanted - 1, MAX_WIDTH), 0, -1)):
        try:
            parse_params(strategy, {**given, "n": n})
        except InputError:
            continue
        return n
    return wanted


def _given(options: SearchOptions, names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _refuse_unknown(further: Mapping[str, Any]) -> None:
    """Fields that no strategy has. One that another strategy has is an error of `SearchSpec`."""
    known = {name for strategy in menu().values() for name in strategy.params.model_fields}
    for name in further:
        if name not in known:
            close = get_close_matches(name, [*known, *SearchOptions.model_fields], n=1)
            hint = f"did you mean {close[0]!r}?" if close else "remove it (every field is listed at /docs)"
            raise UnknownField(f"unknown field {name!r}; {hint}", name)


def _sampling(options: SearchOptions) -> Sampling:
    given = _given(options, ("temperature", "top_p", "seed", "step_tokens", "max_steps"))
    # 31 bits: a seed that every JSON reader keeps exactly. Who asks for temperature 0 wants the same again.
    seed = 0 if options.temperature == 0 else secrets.randbits(31)
    return parse_sampling({"seed": seed, **given})
