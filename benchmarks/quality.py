"""Accuracy over what it costs, drawn."""

from collections.abc import Sequence
from math import log2
from pathlib import Path
from typing import Any

from cos.evaluation.provenance import Facts
from cos.search.errors import InputError

DOTS_PER_INCH = 120
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Those of Okabe and Ito: people who are colour-blind can tell them apart."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("solid", "dashed")
"""The second for strategies beyond the number of colours."""
LABEL_GAP = 0.045
"""Least distance of two labels, as a share of the height of the axis."""
ROOM = 2.2
"""By what factor the axis of tokens goes on where labels stand."""


def check_picture(path: Path | None, flag: str = "--plot") -> None:
    """Errors: InputError for a picture that could not be written at the end."""
    if path is not None and (path.suffix != ".png" or not path.absolute().parent.is_dir()):
        raise InputError(f"{flag} {path}: give a .png file in a folder that exists", flag.lstrip("-"))


def plot_quality(path: Path, rows: Sequence[Facts]) -> None:
    """Accuracy over policy tokens: one line a strategy with a point a width, its 95 % intervals as a band, and its name
    at its last point."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, StrMethodFormatter

    figure = Figure(figsize=(9, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis: Any = figure.subplots()
    names = list(dict.fromkeys(row["strategy"] for row in rows))
    ends = [_line(axis, [row for row in rows if row["strategy"] == name], index) for index, name in enumerate(names)]
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("policy tokens a question (logarithmic)", fontsize="large")
    axis.set_ylabel("right answers (%)", fontsize="large")
    questions = f"{rows[0]['problems']:,} questions"
    axis.set_title(f"{questions}; bands and bars are 95 % intervals", loc="left", fontsize="medium", color="#555555")
    axis.grid(alpha=0.25)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    _label_ends(axis, names, ends, {name for name in names if sum(row["strategy"] == name for row in rows) == 1})
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})


def spread_out(wanted: Sequence[float], gap: float) -> list[float]:
    """Places near those that are wanted, in the same order, at least ``gap`` apart."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    groups: list[list[int]] = []
    for index in order:
        groups.append([index])
        # Groups that touch become one, centred on what its members want.
        while len(groups) > 1 and _low(groups[-1], wanted, gap) < _high(groups[-2], wanted, gap) + gap:
            groups[-2:] = [[*groups[-2], *groups[-1]]]
    places = [0.0] * len(wanted)
    for group in groups:
        for number, index in enumerate(group):
            places[index] = _low(group, wanted, gap) + number * gap
    return places


def _low(group: Sequence[int], wanted: Sequence[float], gap: float) -> float:
    return sum(wanted[index] for index in group) / len(group) - gap * (len(group) - 1) / 2


def _high(group: Sequence[int], wanted: Sequence[float], gap: float) -> float:
    return _low(group, wanted, gap) + gap * (len(group) - 1)


def _style(index: int) -> dict[str, Any]:
    colour, turn = COLOURS[index % len(COLOURS)], index // len(COLOURS)
    return {"color": colour, "marker": MARKERS[index % len(MARKERS)], "linestyle": LINES[turn % len(LINES)]}


def _line(axis: Any, rows: Sequence[Facts], index: int) -> tuple[float, float]:
    """Draws one strategy. Returns its last point."""
    style = _style(index)
    places = [row["policy_tokens"] / row["problems"] for row in rows]
    values, low, high = ([100 * row[name] for row in rows] for name in ("accuracy", "ci_low", "ci_high"))
    if len(rows) > 1:
        axis.fill_between(places, low, high, color=style["color"], alpha=0.13, linewidth=0)
    else:
        # A band needs two points.
        bar = ([values[0] - low[0]], [high[0] - values[0]])
        axis.errorbar(places, values, bar, color=style["color"], linewidth=1.5, capsize=4)
    axis.plot(places, values, markersize=6, linewidth=2, **style)
    return places[-1], values[-1]


def _label_ends(axis: Any, names: Sequence[str], ends: Sequence[tuple[float, float]], lone: set[str]) -> None:
    """Writes each name behind its line's last point, and before a lone point, so that no two lie on each other."""
    bottom, top = axis.get_ylim()
    left, right = axis.get_xlim()
    axis.set_xlim(left / ROOM if lone else left, right * ROOM)
    # Lines that end at nearly the same cost have their labels in one column.
    for column in sorted({round(log2(x)) for x, _ in ends}):
        here = [index for index, (x, _) in enumerate(ends) if round(log2(x)) == column]
        heights = spread_out([ends[index][1] for index in here], LABEL_GAP * (top - bottom))
        for index, height in zip(here, heights, strict=True):
            (end, value), is_lone = ends[index], names[index] in lone
            axis.annotate(
                names[index],
                (end, value),
                xytext=(end / 1.1 if is_lone else end * 1.1, height),
                color=_style(index)["color"],
                fontweight="bold",
                ha="right" if is_lone else "left",
                va="center",
            )
