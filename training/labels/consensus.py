"""Do the sources of labels agree? A table of how far, and a filter that keeps what they agree on.

Reason: continuations and judges agree on a small part of the wrong steps, and PRMs trained on what both say do better
(arXiv 2501.07301, section 3). Sources are compared by their hard labels.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from cos.training.data.rows import ChainRow, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far two sources agree, over the chains that both labelled. Shares are None of nothing."""

    first: Source
    second: Source
    chains: int
    steps: int
    step_agreement: float | None
    """Share of steps with the same hard label."""
    step_kappa: float | None
    """Cohen's kappa of the steps: agreement beyond chance; None where a source gave one label only."""
    bad_overlap: float | None
    """Of the steps that either calls bad, the share that both do."""
    answer_agreement: float | None


def agreements(chains: Sequence[ChainRow], sources: Sequence[Source]) -> list[Agreement]:
    """The table: every pair of sources."""
    return [_compare(chains, first, second) for first, second in combinations(sources, 2)]


def _compare(chains: Sequence[ChainRow], first: Source, second: Source) -> Agreement:
    both = [(chain.labels[first], chain.labels[second]) for chain in chains if {first, second} <= chain.labels.keys()]
    tags = [
        [(a.hard, b.hard) for a, b in zip(mine, theirs, strict=True) if a is not None and b is not None]
        for mine, theirs in both
        if None not in (*mine, *theirs)
    ]
    steps = [pair for chain in tags for pair in chain[:-1]]
    bad = [pair for pair in steps if not all(pair)]
    return Agreement(
        first=first,
        second=second,
        chains=len(tags),
        steps=len(steps),
        step_agreement=_share(a == b for a, b in steps),
        step_kappa=_kappa(steps),
        bad_overlap=_share(not a and not b for a, b in bad),
        answer_agreement=_share(chain[-1][0] == chain[-1][1] for chain in tags),
    )


def _share(found: Iterable[bool]) -> float | None:
    values = list(found)
    return round(math.fsum(values) / len(values), 4) if values else None


def _kappa(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    if not pairs:
        return None
    n = len(pairs)
    first, second = sum(a for a, _ in pairs) / n, sum(b for _, b in pairs) / n
    chance = first * second + (1 - first) * (1 - second)
    same = sum(a == b for a, b in pairs) / n
    return round((same - chance) / (1 - chance), 4) if chance < 1 else None


def table(found: Sequence[Agreement]) -> str:
    """The table as text, one line a pair."""
    head = f"{'sources':<24}{'chains':>8}{'steps':>8}{'agree':>8}{'kappa':>8}{'both bad':>10}{'answers':>9}"
    return "\n".join([head, *(_line(one) for one in found)])


def _line(one: Agreement) -> str:
    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    return (
        f"{f'{one.first} / {one.second}':<24}{one.chains:>8}{one.steps:>8}{shown(one.step_agreement):>8}"
        f"{shown(one.step_kappa):>8}{shown(one.bad_overlap):>10}{shown(one.answer_agreement):>9}"
    )


def agreed_chains(chains: Iterable[ChainRow], sources: Sequence[Source]) -> list[ChainRow]:
    """The chains that every source labelled and on whose every tag all agree."""
    return [
        chain for chain in chains if all(source in chain.labels for source in sources) and _is_agreed(chain, sources)
    ]


def _is_agreed(chain: ChainRow, sources: Sequence[Source]) -> bool:
    every = zip(*(chain.labels[source] for source in sources), strict=True)
    return all(len({label and label.hard for label in labels}) == 1 for labels in every)
