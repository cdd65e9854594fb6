"""Accuracy over what it costs, drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cos.evaluation.provenance import Facts
from cos.search.errors import InputError

DOTS_PER_INCH = 120
COSTS = (("policy_tokens", "policy tokens a problem"), ("prm_reads", "PRM reads a problem"))


def check_picture(path: Path | None, flag: str = "--plot") -> None:
    """Errors: InputError for a picture that could not be written at the end."""
    if path is not None and (path.suffix != ".png" or not path.absolute().parent.is_dir()):
        raise InputError(f"{flag} {path}: give a .png file in a folder that exists", flag.lstrip("-"))


def plot_quality(path: Path, rows: Sequence[Facts]) -> None:
    """One line a strategy, a point a width: accuracy with its interval over tokens and over reads."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, len(COSTS), sharey=True)
    names = list(dict.fromkeys(row["strategy"] for row in rows))
    for axis, (cost, label) in zip(axes, COSTS, strict=True):
        for index, name in enumerate(names):
            own = [row for row in rows if row["strategy"] == name]
            _line(axis, own, cost, name, colormaps["tab20"](index % 20))
        axis.set_xlabel(label)
        axis.set_xscale("symlog", base=2)
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("right answers, %")
    axes[-1].legend(fontsize="small", ncols=2, loc="lower right")
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})


def _line(axis: Any, rows: Sequence[Facts], cost: str, name: str, colour: Any) -> None:
    places = [row[cost] / row["problems"] for row in rows]
    values = [100 * row["accuracy"] for row in rows]
    below = [100 * (row["accuracy"] - row["ci_low"]) for row in rows]
    above = [100 * (row["ci_high"] - row["accuracy"]) for row in rows]
    # The intervals of many lines overlap: they stand behind, pale.
    axis.errorbar(places, values, (below, above), color=colour, alpha=0.3, linestyle="none", linewidth=1, capsize=2)
    axis.plot(places, values, color=colour, label=name, marker="o", markersize=4, linewidth=1.5)
