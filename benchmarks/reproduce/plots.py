"""Plots of the report, PNG. Ours in colour with 95 % bands or bars, the paper's beside."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cos.benchmarks.reproduce import paper
from cos.benchmarks.reproduce.findings import Estimate, mean
from cos.benchmarks.reproduce.policies import PolicyResult, steps_of
from cos.benchmarks.reproduce.scaling import CURVES, TENTHS, Scaling

COLOURS = {
    "pass_at_k": "0.55",
    "beam": "tab:green",
    "best_of_n": "tab:blue",
    "prm_x_likelihood": "tab:purple",
    "likelihood": "tab:orange",
    "self_consistency": "tab:red",
}
DOTS_PER_INCH = 120


def _axes(columns: int, width: float = 9.0, height: float = 4.2) -> tuple[Any, list[Any]]:
    """A figure and its axes, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(1, columns, squeeze=False)
    return figure, list(grid[0])


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})


def _band(axis: Any, places: Sequence[float], estimates: Sequence[Estimate], label: str, colour: str) -> None:
    axis.plot(places, [100 * e.value for e in estimates], marker="o", markersize=4, color=colour, label=label)
    axis.fill_between(
        places,
        [100 * e.low for e in estimates],
        [100 * e.high for e in estimates],
        color=colour,
        alpha=0.15,
        linewidth=0,
    )


def plot_scaling(path: Path, scaling: Scaling) -> None:
    """Accuracy over N, ours and the paper's M3CoT."""
    figure, (ours, theirs) = _axes(2)
    for name, curve in scaling.estimates().items():
        _band(ours, list(curve), list(curve.values()), CURVES[name], COLOURS[name])
    greedy = mean(scaling.greedy, scaling.seed)
    ours.axhline(100 * greedy.value, color="0.3", linestyle=":", linewidth=1, label="greedy")
    for name, values in paper.M3COT.items():
        theirs.plot(paper.WIDTHS, values, marker="o", markersize=4, color=COLOURS[name], label=CURVES[name])
    for axis, title in ((ours, "held-out ledgers"), (theirs, "the paper's figure 5, M3CoT")):
        axis.set_xscale("log", base=2)
        axis.set_xticks(paper.WIDTHS, [str(width) for width in paper.WIDTHS])
        axis.set(xlabel="chains N", ylabel="accuracy, %", title=title)
    ours.legend(frameon=False, fontsize=8)
    _save(figure, path)


def plot_weights(path: Path, shares: Mapping[float, Sequence[float]], width: int, seed: int) -> None:
    """Accuracy over the step weight, ours and the paper's."""
    figure, (ours, theirs) = _axes(2)
    _band(ours, TENTHS, [mean(shares[weight], seed) for weight in TENTHS], "ours", COLOURS["best_of_n"])
    theirs.plot(TENTHS, paper.STEP_WEIGHTS, marker="o", markersize=4, color=COLOURS["best_of_n"])
    for axis, title in ((ours, f"held-out ledgers, best of {width}"), (theirs, "the paper's figure 3, best of 16")):
        axis.axvline(0.2, color="0.6", linestyle=":", linewidth=1)
        axis.set(xlabel="step weight w", ylabel="accuracy, %", title=title)
    _save(figure, path)


def _bars(axis: Any, names: Sequence[str], groups: Mapping[str, Sequence[Estimate]]) -> None:
    width = 0.8 / len(groups)
    for index, (label, estimates) in enumerate(groups.items()):
        heights = [100 * e.value for e in estimates]
        errors = [
            [100 * (e.value - e.low) for e in estimates],
            [100 * (e.high - e.value) for e in estimates],
        ]
        places = [place + (index - (len(groups) - 1) / 2) * width for place in range(len(names))]
        axis.bar(places, heights, width, yerr=errors, capsize=3, label=label)
    axis.set_xticks(range(len(names)), names, rotation=15, ha="right")
    lowest = min(100 * e.low for estimates in groups.values() for e in estimates)
    axis.set_ylim(bottom=max(0.0, lowest - 10))
    axis.set(ylabel="accuracy, %")
    axis.legend(frameon=False, fontsize=8)


def plot_policies(path: Path, policies: Sequence[PolicyResult], title: str, seed: int) -> None:
    """Greedy and one-sample accuracy of some policies."""
    figure, (axis,) = _axes(1, width=6.0)
    groups = {
        "greedy": [mean(policy.greedy, seed) for policy in policies],
        "one sample": [mean(policy.sampled, seed) for policy in policies],
    }
    _bars(axis, [policy.name for policy in policies], groups)
    axis.set(title=title)
    _save(figure, path)


def plot_steps(path: Path, rounds: Sequence[PolicyResult], seed: int) -> None:
    """Mean steps a chain by round, ours and the paper's."""
    figure, (axis,) = _axes(1, width=6.0)
    estimates = [steps_of(policy, seed) for policy in rounds]
    errors = [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]
    axis.errorbar(
        range(len(rounds)), [e.value for e in estimates], yerr=errors, marker="o", capsize=3, label="held-out ledgers"
    )
    for label, values in (("paper, pairs by PRM", paper.STEPS_PRM), ("paper, pairs by outcome", paper.STEPS_OUTCOME)):
        axis.plot(range(len(values)), values, marker=".", linestyle="--", linewidth=1, label=label)
    axis.set(xlabel="rounds of DPO", ylabel="steps a chain", title="Steps a chain")
    axis.legend(frameon=False, fontsize=8)
    _save(figure, path)
