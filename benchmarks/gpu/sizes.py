"""How large each measurement is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Numbers of searches and how they are spread."""

    n: int
    """Chains of a search, or candidates of a level."""
    levels: tuple[int, ...]
    """Searches at once over HTTP."""
    requests: int
    """Searches for each of these numbers."""
    a_worker: int
    """At least so many of each of those at once."""
    ahead_problems: int
    """Problems that are searched with and without beginning ahead."""
    contract_problems: int
    contract_at_once: int
    contract_strategies: tuple[str, ...] | None
    """None for every strategy."""
    limit_levels: tuple[int, ...]
    limit_rounds: int
    barrier_level: int
    barrier_rounds: int
    cost_problems: int
    dtype: str
    """Number format of the engines."""


FULL = Sizes(
    n=8,
    levels=(1, 4, 16, 64),
    requests=24,
    a_worker=6,
    ahead_problems=20,
    contract_problems=5,
    contract_at_once=16,
    contract_strategies=None,
    limit_levels=(1, 16),
    limit_rounds=2,
    barrier_level=16,
    barrier_rounds=2,
    cost_problems=32,
    dtype="auto",
)
"""Some five minutes for a pair of 7b on one H100, by estimate."""
DRY_RUN = Sizes(
    n=2,
    levels=(1, 2),
    requests=2,
    a_worker=1,
    ahead_problems=1,
    contract_problems=1,
    contract_at_once=1,
    contract_strategies=None,
    limit_levels=(1,),
    limit_rounds=1,
    barrier_level=2,
    barrier_rounds=1,
    cost_problems=2,
    dtype="float32",
)
"""As little as can be, one search at a time where trees are compared."""
