"""Models that are started in this process, matched and ready to search or to score."""

import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cos.checkpoints import EMBEDDED, resolve
from cos.engines.launch import Engines, launch
from cos.engines.settings import SCRIPTED, EngineSettings, Role, runtime_of
from cos.prm import menu
from cos.prm.matching import match
from cos.search import grammars
from cos.search.errors import InputError
from cos.search.models import Models
from cos.search.select import ScoreKind

NO_PRM = "none"
"""The PRM name that stands for searching without one."""


def prm_for(policy: str, prm: str | None) -> str:
    """The PRM that goes with a policy. Errors: InputError for a policy that has none of its own."""
    if prm is None and policy not in (EMBEDDED, SCRIPTED):
        raise InputError(
            f"--policy {policy} needs a --prm: give the PRM trained for it, or none to rank by likelihood", "prm"
        )
    return policy if prm is None else prm


def score_kind(wanted: ScoreKind | None, prm: str) -> ScoreKind:
    """What ranks chains: the PRM unless there is none. Errors: InputError for PRM scores without a PRM."""
    if prm != NO_PRM:
        return wanted or "prm"
    if wanted == "prm":
        raise InputError("--score prm needs a PRM; give --prm, or --score likelihood", "score")
    return "likelihood"


@dataclass(frozen=True, slots=True)
class OpenModels:
    """Two engines, and what a search asks them through."""

    engines: Engines
    models: Models


@asynccontextmanager
async def open_models(
    policy: str,
    prm: str,
    *,
    grammar: str = grammars.AUTO,
    prm_format: str = menu.AUTO,
    threads: int | None = None,
    dtype: str = "auto",
) -> AsyncGenerator[OpenModels]:
    """Starts a policy and a PRM (``none``: no PRM) and stops them at the end. ``grammar``, ``prm_format``: as
    `cos.prm.matching.match`. ``threads``, ``dtype``: as `EngineSettings`.

    Errors: InputError for a model that cannot be found, started or matched.
    """
    reader = None if prm == NO_PRM else _settings("prm", prm, grammar, threads, dtype)
    with _stdout_to_stderr():
        engines = await launch(_settings("policy", policy, grammar, threads, dtype), reader)
    try:
        yield OpenModels(engines, match(engines.policy, engines.prm, grammar=grammar, prm_format=prm_format))
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
        engines = await launch(_settings("prm", prm, grammar, threads, dtype), None)
    try:
        yield match(engines.policy, engines.policy, grammar=grammar, prm_format=prm_format)
    finally:
        await engines.close()


def _settings(role: Role, model: str, grammar: str, threads: int | None, dtype: str) -> EngineSettings:
    return EngineSettings(
        role=role, model=resolve(role, model), runtime=runtime_of(model), grammar=grammar, threads=threads, dtype=dtype
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
