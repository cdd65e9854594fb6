"""How much memory there is, and how much two models take."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory that models are loaded into."""

    name: str
    """In words."""
    total_bytes: int
    free_bytes: int


def main_memory(proc: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> Memory | None:
    """This machine's, or the container's where it has a limit; None where it cannot be told."""
    try:
        lines = dict(line.split(":", 1) for line in proc.read_text("ascii").splitlines())
        total, free = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, ValueError, KeyError):
        return None
    try:
        most, used = ((group / f"memory.{name}").read_text("ascii").strip() for name in ("max", "current"))
        if most != "max" and int(most) < total:
            return Memory("the container's memory", int(most), min(free, int(most) - int(used)))
    except (OSError, ValueError):
        pass  # there are no such limits here
    return Memory("this machine's memory", total, free)


def gpu_memories() -> Mapping[int, Memory]:
    """That of each GPU that vLLM sees, by the number that vLLM knows it by: CUDA_VISIBLE_DEVICES hides and renumbers
    them. Empty where it cannot be told.

    They are asked by a program of its own: a context that this process opened would take some of it.
    """
    command = ["nvidia-smi", "--query-gpu=index,uuid,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)  # noqa: S603
        return visible(told.stdout, os.environ.get("CUDA_VISIBLE_DEVICES"))
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}


def visible(told: str, devices: str | None) -> Mapping[int, Memory]:
    """The GPUs that a process sees. ``told``: lines of index, UUID, and total and free memory in MiB. ``devices``:
    indices or (beginnings of) UUIDs, as CUDA_VISIBLE_DEVICES names them; all unless given.

    Errors: ValueError for lines that are none.
    """
    rows = [[part.strip() for part in line.split(",")] for line in told.splitlines() if line.strip()]
    every = [(index, uuid, int(total) * 2**20, int(free) * 2**20) for index, uuid, total, free in rows]
    names = [index for index, *_ in every] if not devices else [name.strip() for name in devices.split(",")]
    found = (next((gpu for gpu in every if name == gpu[0] or gpu[1].startswith(name)), None) for name in names)
    return {
        number: Memory(f"the memory of GPU {number}", gpu[2], gpu[3])
        for number, gpu in enumerate(found)
        if gpu is not None
    }
