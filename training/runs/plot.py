"""A picture of a training stage's metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cos.search.errors import InputError
from cos.training.runs.metrics import METRICS, read_metrics

UNSHOWN = frozenset({"step", "epoch", "total_flos", "train_loss"})
LOSSES = ("loss", "validation_loss")
"""Shown in one panel."""
ACROSS = 3
"""Panels in a row."""
PANEL_INCHES = (4.5, 3.0)


def curves(entries: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of every number that was logged during training, by its name."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for entry in entries:
        if "train_runtime" in entry:
            continue
        for name, value in entry.items():
            if name not in UNSHOWN and isinstance(value, int | float):
                steps, values = found.setdefault(name, ([], []))
                steps.append(int(entry["step"]))
                values.append(float(value))
    return found


def plot_metrics(folder: Path, out: Path) -> Path:
    """Writes a picture of a stage's metrics, a panel for each (training and validation loss share one).

    Errors: InputError for a folder without metrics.
    """
    from matplotlib.figure import Figure

    found = curves(read_metrics(folder))
    if not found:
        below = sorted(path.parent for path in folder.rglob(METRICS)) if folder.is_dir() else []
        fix = f"give one of {', '.join(map(str, below))}" if below else "give the folder of a stage that trains"
        raise InputError(f"{folder}: there is no {METRICS} with a number in it; {fix}", "run")
    panels = [LOSSES, *((name,) for name in found if name not in LOSSES)]
    across = min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(PANEL_INCHES[0] * across, PANEL_INCHES[1] * down), layout="constrained")
    for place, names in enumerate(panels, start=1):
        axes = figure.add_subplot(down, across, place)
        for name in names:
            if name in found:
                axes.plot(*found[name], label=name, marker="." if len(found[name][0]) < 30 else None)
        axes.set_title(names[0])
        axes.set_xlabel("step")
        axes.grid(visible=True, alpha=0.3)
        if len(names) > 1:
            axes.legend()
    figure.suptitle(folder.name)
    figure.savefig(out)
    return out
