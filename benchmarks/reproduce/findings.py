"""A finding: a difference that we measured beside the one that the paper shows, and whether the two agree."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from cos.benchmarks.grid import points
from cos.benchmarks.report import percent
from cos.evaluation.provenance import Facts
from cos.evaluation.statistics import bootstrap_mean

Verdict = Literal["agrees", "agrees in sign, not beyond chance", "open", "disagrees", "no figure in the paper"]
"""Agrees: same sign, and our interval does not hold 0. Open: the other sign or none, but our interval holds 0."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def facts(self) -> Facts:
        """As JSON."""
        return {"value": self.value, "ci_low": self.low, "ci_high": self.high}


def mean(values: Sequence[float], seed: int) -> Estimate:
    """A mean over problems."""
    interval = bootstrap_mean(values, seed)
    return Estimate(sum(values) / len(values), interval.low, interval.high)


def paired(ours: Sequence[float], theirs: Sequence[float], seed: int) -> Estimate:
    """A mean difference over the same problems, by the paired bootstrap."""
    return mean([mine - other for mine, other in zip(ours, theirs, strict=True)], seed)


def cell(estimate: Estimate | None) -> str:
    """A share and its interval, for a table."""
    if estimate is None:
        return "-"
    return f"{percent(estimate.value)} ({100 * estimate.low:.1f} - {100 * estimate.high:.1f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One comparison."""

    claim: str
    ours: Estimate
    """The difference that the claim says is above 0 (a share, or a number of steps)."""
    paper: str
    """The paper's own figures, as text; empty where it has none."""
    paper_sign: int = 1
    """1: the paper's difference is above 0; -1: below."""
    otherwise: str = ""
    """What to say where we do not find the same: how the two settings differ."""
    unit: Literal["points", "steps"] = "points"

    @property
    def verdict(self) -> Verdict:
        if not self.paper:
            return "no figure in the paper"
        same = self.ours.value * self.paper_sign > 0
        sure = self.ours.low > 0 or self.ours.high < 0
        if same:
            return "agrees" if sure else "agrees in sign, not beyond chance"
        return "disagrees" if sure else "open"

    @property
    def shown(self) -> str:
        """Our figure in words."""
        if self.unit == "points":
            return f"{points(self.ours.value)} ({points(self.ours.low)} to {points(self.ours.high)})"
        return f"{self.ours.value:+.2f} ({self.ours.low:+.2f} to {self.ours.high:+.2f})"

    @property
    def remark(self) -> str:
        """The sentence for a finding that is not confirmed; empty where it is."""
        if self.verdict in ("agrees", "no figure in the paper"):
            return ""
        verdict = {
            "open": "neither shown nor refuted, the interval holds 0.",
            "disagrees": "the paper's order is not found here.",
        }.get(self.verdict, "the paper's sign, but the interval holds 0.")
        return f"{self.claim}: {verdict} {self.otherwise}".strip()

    def facts(self) -> Facts:
        """As JSON."""
        return {
            "claim": self.claim,
            **self.ours.facts(),
            "unit": self.unit,
            "paper": self.paper or None,
            "verdict": self.verdict,
            "remark": self.remark or None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of the report."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the report."""

    name: str
    title: str
    text: str = ""
    tables: tuple[Table, ...] = ()
    findings: tuple[Finding, ...] = ()
    plot: str | None = None
    """File name of its plot."""
    facts: Facts = field(default_factory=dict[str, object])
    missing: str = ""
    """Why there is nothing to report; empty where there is."""
