"""Carries out a plan: pair by pair, first over HTTP on a server of its own, then in process."""

import asyncio
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import torch

from cos.benchmarks.gpu import in_process, over_http
from cos.benchmarks.gpu.contract import Trees
from cos.benchmarks.gpu.journal import Journal
from cos.benchmarks.gpu.pairs import Pair, model_of, write
from cos.benchmarks.gpu.process import FREED_S, until_free
from cos.benchmarks.gpu.sizes import Sizes
from cos.benchmarks.server_process import own_server
from cos.checkpoints import LedgerProblem
from cos.engines.memory import Memory, gpu_memories
from cos.evaluation.in_process import OpenModels, open_models
from cos.evaluation.provenance import Facts, machine, output_of
from cos.search.errors import InputError

WRITING = "widening"
SERVER, ENGINES = "server_start", "engine_start"
MEASUREMENTS = (WRITING, SERVER, *over_http.MEASUREMENTS, ENGINES, *in_process.MEASUREMENTS)
"""In their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured, and for how long at most."""

    pairs: Sequence[Pair]
    wanted: Sequence[str]
    sizes: Sizes
    problems: Sequence[LedgerProblem]
    """In the seed's order."""
    folder: Path
    """Where widened checkpoints are written, or were before."""
    out: Path
    limit_s: float
    server_flags: str
    seed: int
    is_dry_run: bool


@dataclass(slots=True)
class Seen:
    """What a pair leaves for those after it."""

    reference: Trees | None = field(default=None)
    """The trees of the pair that the others are widened from."""
    memories: Mapping[int, Memory] = field(default_factory=gpu_memories)
    """Of the GPUs, before anything of ours ran there."""


async def run(plan: Plan) -> Facts:
    """Makes all measurements; see `cos.benchmarks.gpu.journal`. Errors: InputError where results cannot be written."""
    head = {
        **machine(),
        "gpu": gpu_facts(),
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith("VLLM_")},
        "server_flags": plan.server_flags,
        "dtype": plan.sizes.dtype,
        "seed": plan.seed,
        "dry_run": plan.is_dry_run,
    }
    names = [pair.name for pair in plan.pairs]
    journal = Journal(plan.out, head, names, MEASUREMENTS, wanted=plan.wanted, limit_s=plan.limit_s)
    seen = Seen()
    for pair in plan.pairs:
        await _measure_pair(plan, pair, journal, seen)
    return journal.facts


async def _measure_pair(plan: Plan, pair: Pair, journal: Journal, seen: Seen) -> None:
    dtype = number_format(plan.sizes)

    async def written() -> Facts:
        return await asyncio.to_thread(write, pair, plan.folder, dtype, plan.seed)

    if not await journal.measure(pair.name, WRITING, written, needed=True):
        journal.leave_out(pair.name, MEASUREMENTS[1:], WRITING)
        return
    policy = model_of(pair.policy, "policy", plan.folder, dtype)
    prm = model_of(pair.prm, "prm", plan.folder, dtype)
    if journal.wants(SERVER, *over_http.MEASUREMENTS):
        flags = ("--dtype", plan.sizes.dtype, *shlex.split(plan.server_flags))
        await until_free(seen.memories, min(FREED_S, journal.left_s))
        await _over_http(plan, pair, journal, policy, prm, flags)
    if journal.wants(ENGINES, *in_process.MEASUREMENTS):
        await until_free(seen.memories, min(FREED_S, journal.left_s))
        await _in_process(plan, pair, journal, seen, policy, prm)


def number_format(sizes: Sizes) -> torch.dtype:
    """Of widened checkpoints: they are cast where the engines compute in another format than the checkpoint's own."""
    return torch.float32 if sizes.dtype == "float32" else torch.bfloat16


async def _over_http(plan: Plan, pair: Pair, journal: Journal, policy: str, prm: str, flags: Sequence[str]) -> None:
    """On a server of its own with its defaults, but for ``flags``."""
    async with AsyncExitStack() as stack:
        urls: list[str] = []

        async def start() -> Facts:
            began = time.perf_counter()
            urls.append(await stack.enter_async_context(own_server(policy, prm, *flags)))
            return {"start_s": time.perf_counter() - began}

        if not await journal.measure(pair.name, SERVER, start, needed=True):
            journal.leave_out(pair.name, over_http.MEASUREMENTS, SERVER)
            return
        limits = httpx.Limits(max_connections=max(plan.sizes.levels))
        async with httpx.AsyncClient(base_url=urls[0], limits=limits) as client:
            for name, work in over_http.WORK.items():
                await journal.measure(pair.name, name, partial(work, client, plan.problems, plan.sizes, plan.seed))


async def _in_process(plan: Plan, pair: Pair, journal: Journal, seen: Seen, policy: str, prm: str) -> None:
    """On engines of this process."""
    async with AsyncExitStack() as stack:
        started: list[OpenModels] = []

        async def start() -> Facts:
            began = time.perf_counter()
            started.append(await stack.enter_async_context(open_models(policy, prm, dtype=plan.sizes.dtype)))
            return {"start_s": time.perf_counter() - began}

        if not await journal.measure(pair.name, ENGINES, start, needed=True):
            journal.leave_out(pair.name, in_process.MEASUREMENTS, ENGINES)
            return
        here = in_process.Here(started[0], plan.problems, plan.sizes, plan.seed, seen.reference)
        for name, work in in_process.WORK.items():
            await journal.measure(pair.name, name, partial(work, here))
        if pair.is_reference and seen.reference is None:
            seen.reference = here.trees


def parse_measurements(text: str) -> tuple[str, ...]:
    """Measurements by name. Errors: InputError."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in MEASUREMENTS:
            raise InputError(f"--only {text}: {name!r} is none of {', '.join(MEASUREMENTS)}", "only")
    return names


def gpu_facts() -> list[dict[str, str]]:
    """Each GPU with its driver and memory; empty where there is none."""
    names = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm")
    told = output_of("nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader") or ""
    rows = [line.split(", ") for line in told.splitlines() if line.strip()]
    return [{**dict(zip(names, row, strict=False)), "cuda": str(torch.version.cuda)} for row in rows]
