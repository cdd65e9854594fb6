"""A training stage's metrics: a JSON line for every entry of the log, whole and once each, whenever it is killed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cos.evaluation.files import replacing

METRICS = "metrics.jsonl"


def add_metrics(folder: Path, step: int, numbers: Mapping[str, float]) -> None:
    """Appends a line."""
    with (folder / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **numbers}) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All whole lines. One that a kill has torn is left out: its steps are logged again by the run that goes on."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return [entry for line in lines if (entry := _read(line)) is not None]


def cut_metrics(folder: Path, step: int) -> None:
    """Leaves the lines up to a checkpoint's step: a run that goes on from there does the later ones again."""
    if not (folder / METRICS).is_file():
        return
    kept = [entry for entry in read_metrics(folder) if entry["step"] <= step]
    with replacing(folder / METRICS) as file:
        file.writelines(json.dumps(entry) + "\n" for entry in kept)


def _read(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("step"), int) else None
