"""What the dashboards and rules ask of Prometheus, as plain expressions, and whether it has an answer to each."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from cos.benchmarks.prometheus import Prometheus
from cos.search.errors import InputError

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
"""In a checkout; the wheel has no dashboards."""
ENGINES = ("policy", "prm")
COMPARISON = re.compile(r" (==|!=|>=|<=|>|<) ")

MAY_BE_EMPTY: dict[str, str] = {}
"""Panels and rules that have no data even after all that the benchmark does, each with the reason."""

Kind = Literal["panel", "alert", "rule"]


@dataclass(frozen=True, slots=True)
class Queried:
    """One panel, alert or recording rule, and the expressions that it stands on."""

    kind: Kind
    name: str
    """As ``Dashboard: Panel``, or the rule's name."""
    expressions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """What stands for Grafana's variables."""

    rate_s: int
    """For $__rate_interval, seconds."""
    range_s: int
    """For $__range, seconds."""
    instance: str = ".*"
    strategy: str = ".*"

    def fill(self, expr: str, engine: str) -> str:
        """An expression without variables. Errors: InputError for one that is not known here."""
        values = {
            "$__rate_interval": f"{self.rate_s}s",
            "$__range": f"{self.range_s}s",
            "$instance": self.instance,
            "$strategy": self.strategy,
            "$engine": engine,
        }
        for name, value in values.items():
            expr = expr.replace(name, value)
        if "$" in expr:
            raise InputError(f"a variable that no dashboard has: {expr}", "dashboards")
        return expr


def panels(deploy: Path, window: Window) -> list[Queried]:
    """Every panel that has a query; one that is repeated for each engine counts for each. Errors: InputError."""
    files = sorted((deploy / "grafana" / "dashboards").glob("*.json"))
    if not files:
        raise InputError(f"no dashboards in {deploy}/grafana/dashboards; give a checkout's deploy folder", "deploy")
    return [asked for file in files for asked in _of_board(json.loads(file.read_text(encoding="utf-8")), window)]


def _of_board(board: dict[str, Any], window: Window) -> Iterable[Queried]:
    for panel in board["panels"]:
        targets = panel.get("targets", ())
        for engine in ENGINES if "repeat" in panel else ENGINES[:1]:
            name = f"{board['title'].removeprefix('cos-serve: ')}: {panel['title'].replace('$engine', engine)}"
            if targets:
                yield Queried("panel", name, tuple(window.fill(target["expr"], engine) for target in targets))


def rules(deploy: Path) -> list[Queried]:
    """Every alert and recording rule. An alert is asked with its comparisons as numbers (``bool``), so that it has data
    where its series exist, whether or not it fires."""
    found: list[Queried] = []
    for file in sorted((deploy / "prometheus" / "rules").glob("*.yml")):
        groups: list[dict[str, Any]] = yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
        for rule in (rule for group in groups for rule in group["rules"]):
            if "alert" in rule:
                found.append(Queried("alert", rule["alert"], (COMPARISON.sub(r" \1 bool ", rule["expr"]),)))
            else:
                found.append(Queried("rule", rule["record"], (rule["expr"],)))
    return found


@dataclass(slots=True)
class Coverage:
    """Which of what is asked has had data, at any of several looks."""

    everything: Sequence[Queried]
    _with_data: set[str] = field(default_factory=set[str])

    async def look(self, prometheus: Prometheus) -> None:
        """Asks for all that has had no data so far."""
        for asked in self.without_data:
            if all([await prometheus.query(expr) for expr in asked.expressions]):
                self._with_data.add(asked.name)

    @property
    def without_data(self) -> list[Queried]:
        """What has had none at any look."""
        return [asked for asked in self.everything if asked.name not in self._with_data]

    def count(self, kind: Kind) -> tuple[int, int]:
        """How many there are of a kind, and how many of them have had data."""
        of_kind = [asked for asked in self.everything if asked.kind == kind]
        return len(of_kind), sum(asked.name in self._with_data for asked in of_kind)
