"""Engines in this process, matched and ready to search."""

import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cos.checkpoints import resolve
from cos.engines.launch import Engines, launch
from cos.engines.ports import Engine
from cos.engines.settings import EngineSettings, Role, runtime_of
from cos.prm.pair import Pair, pair

NO_PRM = "none"
"""The PRM name that stands for searching without one."""


@dataclass(frozen=True, slots=True)
class Running:
    """Two engines and the pair they make."""

    engines: Engines
    pair: Pair


@asynccontextmanager
async def running(policy: str, prm: str, *, threads: int | None = None, dtype: str = "auto") -> AsyncGenerator[Running]:
    """Starts a policy and a PRM (``none``: no PRM) and stops them at the end. ``threads``, ``dtype``: as
    `EngineSettings`.

    Errors: InputError for a model that cannot be found, started or paired.
    """
    reader = None if prm == NO_PRM else _settings("prm", prm, threads, dtype)
    with _stdout_to_stderr():
        engines = await launch(_settings("policy", policy, threads, dtype), reader)
    try:
        yield Running(engines, pair(engines.policy, engines.prm))
    finally:
        await engines.close()


@asynccontextmanager
async def running_alone(
    role: Role, model: str, *, threads: int | None = None, dtype: str = "auto"
) -> AsyncGenerator[Engine]:
    """The same for one engine. Errors: InputError for a model that cannot be found or started."""
    with _stdout_to_stderr():
        engines = await launch(_settings(role, model, threads, dtype), None)
    try:
        yield engines.policy
    finally:
        await engines.close()


def _settings(role: Role, model: str, threads: int | None, dtype: str) -> EngineSettings:
    return EngineSettings(
        role=role, model=resolve(role, model), runtime=runtime_of(model), threads=threads, dtype=dtype
    )


@contextlib.contextmanager
def _stdout_to_stderr() -> Generator[None]:
    """Model runtimes and the processes they start log to stdout, which belongs to the result: give them stderr."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
