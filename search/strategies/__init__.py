"""The strategies by name. Third parties add theirs through the entry-point group ``cos.strategies``."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from cos.search.distributions import Menu
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

__all__ = ["BUILT_IN", "Params", "Strategy", "menu", "parse_params", "resolve", "works_by_answers"]

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


def _fault(found: type[Strategy]) -> str | None:
    taken = {name for strategy in BUILT_IN for name in (strategy.name, *strategy.aliases)}
    clash = taken.intersection(found.aliases)
    return f"two strategies are called {min(clash)!r}" if clash else None


def _made(found: type[Strategy]) -> Strategy:
    return found()


def _menu() -> Menu[Strategy]:
    return Menu(
        "strategy",
        "strategy",
        "cos.strategies",
        ("name", "aliases", "params", "needs_scores", "run"),
        BUILT_IN,
        made=_made,
        fault=_fault,
    )


def menu() -> dict[str, Strategy]:
    """Every usable strategy by its name. What another distribution adds and cannot be used is logged."""
    return _menu().usable


def resolve(name: str) -> Strategy:
    """The strategy of a name or alias; ``best-of-n`` means ``best_of_n``.

    Errors: InputError with the menu for an unknown name, or naming the entry point that cannot be used.
    """
    wanted = name.strip().lower().replace("-", "_")
    strategies = _menu()
    ours = next((strategy.name for strategy in BUILT_IN if wanted in strategy.aliases), wanted)
    if ours in strategies.names:
        return strategies.find(ours)
    theirs = [strategy for strategy in strategies.usable.values() if wanted in strategy.aliases]
    if len(theirs) > 1:
        both = " and ".join(repr(strategy.name) for strategy in theirs)
        raise InputError(f"two strategies are called {wanted!r}: ask for one of {both}", "strategy")
    return theirs[0] if theirs else strategies.find(name)


def works_by_answers(strategy: Strategy) -> bool:
    """Whether a strategy can do with scores of whole answers, or without any."""
    return not strategy.needs_scores or getattr(strategy, "takes_answer_scores", False)


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
