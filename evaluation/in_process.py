"""Models that are started in this process, matched and ready to search or to score."""

import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cos.checkpoints import resolve
from cos.engines.launch import Engines, launch
from cos.engines.settings import EngineSettings, Role, runtime_of
from cos.prm import menu
from cos.prm.matching import match
from cos.search import grammars
from cos.search.models import Models

NO_PRM = "none"
"""The PRM name that stands for searching without one."""


@dataclass(frozen=True, slots=True)
class OpenModels:
    """Two engines, and what a search asks them through."""

    engines: Engines
    models: Models


@asynccontextmanager
async def open_models(
    policy: str, prm: str, *, threads: int | None = None, dtype: str = "auto"
) -> AsyncGenerator[OpenModels]:
    """Starts a policy and a PRM (``none``: no PRM) and stops them at the end. ``threads``, ``dtype``: as
    `EngineSettings`.

    Errors: InputError for a model that cannot be found, started or matched.
    """
    reader = None if prm == NO_PRM else _settings("prm", prm, threads, dtype)
    with _stdout_to_stderr():
        engines = await launch(_settings("policy", policy, threads, dtype), reader)
    try:
        yield OpenModels(engines, match(engines.policy, engines.prm))
    finally:
        await engines.close()


@asynccontextmanager
async def open_prm(
    prm: str,
    *,
    prm_format: str = menu.AUTO,
    grammar: str = grammars.AUTO,
    threads: int | None = None,
    dtype: str = "auto",
) -> AsyncGenerator[Models]:
    """The same for a PRM alone, which is to score chains that are there already. It stands for their policy, too: the
    chains are written in its vocabulary, in ``grammar``.

    Errors: InputError for a PRM that cannot be found, started or asked so.
    """
    with _stdout_to_stderr():
        engines = await launch(_settings("prm", prm, threads, dtype), None)
    try:
        yield match(engines.policy, engines.policy, grammar=grammar, prm_format=prm_format)
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
