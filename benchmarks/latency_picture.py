"""The board Search latency as a picture: p50, p95 and p99 by strategy over time, from what Prometheus has kept."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from cos.benchmarks.boards import Window, panels
from cos.benchmarks.prometheus import Prometheus
from cos.benchmarks.supervisor import Outage
from cos.search.errors import CosError

DOTS_PER_INCH = 120
QUANTILES = ("p50", "p95", "p99")
PANEL = "Search latency: Time to answer by strategy, {}"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Of Okabe and Ito, told apart by everyone."""
POINTS = 240
LEAST_GAP = 0.09
"""Between two labels, as a share of the axis."""

Curve = Sequence[tuple[float, float]]
"""Minutes since the beginning, seconds."""


@dataclass(frozen=True, slots=True)
class LatencyCurves:
    """What the picture shows."""

    curves: Mapping[str, Mapping[str, Curve]]
    """By quantile and strategy."""
    began: float
    minutes: float
    outages: Sequence[Outage]
    window_s: int


async def read(
    prometheus: Prometheus, deploy: Path, window: Window, began: float, ended: float, outages: Sequence[Outage]
) -> LatencyCurves:
    """The board's own panels over a run. Errors: CosError where one has no data."""
    seconds = ended - began
    # Wide enough for a few searches of each strategy, narrow enough to see a minute's trouble.
    narrow = replace(window, rate_s=max(20, min(60, round(seconds / 10))))
    asked = {each.name: each.expressions[0] for each in panels(deploy, narrow)}
    curves: dict[str, dict[str, Curve]] = {}
    for quantile in QUANTILES:
        found = await prometheus.query_range(asked[PANEL.format(quantile)], began, ended, _step_s(seconds))
        if not found:
            raise CosError(f"the panel {PANEL.format(quantile)} has no data to draw")
        curves[quantile] = {
            series.labels["strategy"]: [((at - began) / 60, value) for at, value in series.values] for series in found
        }
    return LatencyCurves(curves, began, seconds / 60, outages, narrow.rate_s)


def _step_s(seconds: float) -> float:
    """Between two points; Prometheus scrapes once a second."""
    return max(1.0, seconds / POINTS)


def draw(path: Path, drawn: LatencyCurves) -> None:
    """One panel a quantile, one line a strategy, and a grey band while the server was down."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(len(QUANTILES), 1, sharex=True, sharey=True)
    strategies = sorted(drawn.curves[QUANTILES[0]])
    colours = dict(zip(strategies, COLOURS, strict=False))
    for axis, quantile in zip(axes, QUANTILES, strict=True):
        _panel(axis, quantile, drawn, colours)
    # The axes have one scale, which is known once all lines are there.
    for axis, quantile in zip(axes, QUANTILES, strict=True):
        _label(axis, drawn.curves[quantile], colours)
    figure.supylabel("seconds from request to answer", fontsize=11)
    axes[-1].set_xlabel(f"minutes of mixed load (each point: the last {drawn.window_s} s)")
    figure.suptitle(_message(drawn), x=0.01, ha="left", fontsize=13, fontweight="bold")
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})


def _message(drawn: LatencyCurves) -> str:
    if not drawn.outages:
        return "Time to answer by strategy"
    first = drawn.outages[0]
    return f"An engine is killed: the server is back after {first.ready - first.ended:.0f} s, by itself"


def _panel(axis: Any, quantile: str, drawn: LatencyCurves, colours: Mapping[str, str]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlim(0, drawn.minutes)
    axis.set_title(f"{quantile}: {_share(quantile)} answers came within", loc="left", fontsize=11)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    for outage in drawn.outages:
        start, end = ((at - drawn.began) / 60 for at in (outage.ended, outage.ready))
        axis.axvspan(start, end, color="0.88", linewidth=0)
        axis.text(
            (start + end) / 2, 0.97, "down", transform=axis.get_xaxis_transform(), ha="center", va="top", color="0.35"
        )
    for strategy, curve in drawn.curves[quantile].items():
        for piece in _pieces(curve, drawn):
            axis.plot(*zip(*piece, strict=True), color=colours[strategy], linewidth=2, solid_capstyle="round")


def _share(quantile: str) -> str:
    return {"p50": "half of the", "p95": "95 of 100", "p99": "99 of 100"}[quantile]


def _pieces(curve: Curve, drawn: LatencyCurves) -> list[Curve]:
    """A curve, cut where it has no data. While the server is down nothing is answered, and a point tells of before."""
    widest = 3 * _step_s(60 * drawn.minutes) / 60
    pieces: list[list[tuple[float, float]]] = []
    for point in curve:
        at = drawn.began + 60 * point[0]
        if any(outage.ended < at < outage.ready for outage in drawn.outages):
            continue
        if not pieces or point[0] - pieces[-1][-1][0] > widest:
            pieces.append([])
        pieces[-1].append(point)
    return list(pieces)


def _label(axis: Any, curves: Mapping[str, Curve], colours: Mapping[str, str]) -> None:
    """Names at the ends of the lines, moved apart where they would lie on each other."""
    low, high = map(math.log, axis.get_ylim())
    ends = {name: (math.log(curve[-1][1]) - low) / (high - low) for name, curve in curves.items()}
    for name, place in _apart(ends).items():
        axis.text(1.01, place, name, transform=axis.transAxes, color=colours[name], va="center", fontweight="bold")


def _apart(ends: Mapping[str, float]) -> dict[str, float]:
    """Places near ``ends``, in their order, each at least a gap from the next."""
    places = dict(sorted(ends.items(), key=lambda each: each[1]))
    for _ in range(50):
        for lower, upper in pairwise(list(places)):
            missing = max(0.0, LEAST_GAP - (places[upper] - places[lower]))
            places[lower] -= missing / 2
            places[upper] += missing / 2
    return places
