"""The strategies by name. Third parties add theirs through the entry-point group ``cos.strategies``."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError

from cos.search.distributions import added
from cos.search.errors import InputError
from cos.search.strategies.auto import Auto
from cos.search.strategies.base import Params, Strategy
from cos.search.strategies.beam import Beam
from cos.search.strategies.best_of_n import BestOfN
from cos.search.strategies.dvts import Dvts
from cos.search.strategies.greedy import Greedy
from cos.search.strategies.greedy_prm import GreedyPrm
from cos.search.strategies.lookahead import Lookahead
from cos.search.strategies.mcts import Mcts
from cos.search.strategies.particle import Particle
from cos.search.strategies.rebase import Rebase
from cos.search.strategies.self_consistency import SelfConsistency
from cos.search.strategies.self_critique import SelfCritique
from cos.search.strategies.weighted_vote import WeightedVote

__all__ = ["Params", "Strategy", "menu", "parse_params", "resolve"]

BUILT_IN: tuple[Strategy, ...] = (
    Auto(),
    Greedy(),
    SelfConsistency(),
    BestOfN(),
    WeightedVote(),
    Beam(),
    GreedyPrm(),
    Dvts(),
    Rebase(),
    Particle(),
    Lookahead(),
    Mcts(),
    SelfCritique(),
)


@cache
def third_party() -> tuple[Strategy, ...]:
    """The strategies other distributions add. Looked up once. Errors: InputError naming one that cannot be used."""
    return tuple(strategy() for strategy in added("cos.strategies", "name", "aliases", "params", "needs_scores", "run"))


def menu() -> dict[str, Strategy]:
    """Every strategy by its name. Errors: InputError when two have the same name or alias."""
    found: dict[str, Strategy] = {}
    taken: set[str] = set()
    for strategy in (*BUILT_IN, *third_party()):
        names = {strategy.name, *strategy.aliases}
        if clash := names & taken:
            raise InputError(f"two strategies are called {min(clash)!r}; uninstall one of them", "strategy")
        taken |= names
        found[strategy.name] = strategy
    return found


def resolve(name: str) -> Strategy:
    """The strategy of a name or alias; ``best-of-n`` means ``best_of_n``. Errors: InputError with the menu."""
    wanted = name.strip().lower().replace("-", "_")
    strategies = menu()
    for strategy in strategies.values():
        if wanted == strategy.name or wanted in strategy.aliases:
            return strategy
    raise InputError(f"unknown strategy {name!r}; available: {', '.join(sorted(strategies))}", "strategy")


def parse_params(strategy: Strategy, given: Mapping[str, Any]) -> Params:
    """A strategy's parameters. Errors: InputError naming the parameter, the value and what is allowed."""
    known = strategy.params.model_fields
    for name in given:
        if name not in known:
            allowed = f"it takes {', '.join(known)}" if known else "it takes none"
            raise InputError(f"strategy {strategy.name!r} has no parameter {name!r}; {allowed}", name)
    try:
        return strategy.params.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or strategy.name
        raise InputError(f"{name} = {first['input']!r}: {first['msg'].removeprefix('Value error, ')}", name) from error
