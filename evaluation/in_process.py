"""Models that are started in this process, matched and ready to search or to score."""

import contextlib
import logging
import os
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from cos.checkpoints import EMBEDDED, resolve
from cos.engines.adapter import find_adapter
from cos.engines.elsewhere import NOWHERE_ELSE, Elsewhere
from cos.engines.launch import Engines, launch
from cos.engines.ports import Runtime
from cos.engines.settings import SCRIPTED, EngineSettings, Role, runtime_of
from cos.prm import menu
from cos.prm.choice import ITSELF, NO_PRM, PrmChoice, choose_prm
from cos.prm.matching import match, unseen_pictures
from cos.search import grammars
from cos.search.errors import InputError
from cos.search.models import Models
from cos.search.select import ScoreKind

logger = logging.getLogger(__name__)

PAIRED = (EMBEDDED, SCRIPTED)
"""Policies that have a PRM of their own."""


def prm_for(policy: str, prm: str | None, prm_format: str = menu.AUTO, prm_lora: str | None = None) -> str:
    """The PRM that goes with a policy: a model, an adapter, ``judge`` or ``none``. Errors: InputError for a policy that
    has none of its own, and as `cos.prm.choice.choose_prm`."""
    return choose_prm(policy, prm, prm_format, paired=PAIRED, lora=prm_lora).name


def base_of(lora: str, policy: str | None, prm: str | None) -> str:
    """The model that a PRM's adapter is used with: the policy, or else the one that the adapter names.

    Errors: InputError where there is none, or a PRM beside it; as `cos.engines.adapter.find_adapter`.
    """
    choose_prm(policy or lora, prm, paired=PAIRED, lora=lora)
    base = policy or find_adapter(lora).base
    if not base:
        raise InputError(f"--prm-lora {lora}: it does not say what it was trained on; give that as --policy", "policy")
    return base


def score_kind(wanted: ScoreKind | None, prm: str) -> ScoreKind:
    """What ranks chains: the PRM unless there is none. Errors: InputError for PRM scores without a PRM."""
    if prm != NO_PRM:
        return wanted or "prm"
    if wanted == "prm":
        raise InputError("--score prm needs a PRM; give --prm, or --score likelihood", "score")
    return "likelihood"


@dataclass(frozen=True, slots=True)
class OpenModels:
    """The engines, and what a search asks them through."""

    engines: Engines
    models: Models
    prm: PrmChoice
    """Who judges."""

    @property
    def reader(self) -> Runtime | None:
        """The engine that is asked for scores; the policy's own where the policy judges."""
        return self.prm.reader(self.engines.policy, self.engines.prm)


@asynccontextmanager
async def open_models(
    policy: str,
    prm: str | None,
    *,
    prm_lora: str | None = None,
    grammar: str = grammars.AUTO,
    prm_format: str = menu.AUTO,
    threads: int | None = None,
    dtype: str = "auto",
    verdict_tokens: int | None = None,
    elsewhere: Elsewhere = NOWHERE_ELSE,
) -> AsyncGenerator[OpenModels]:
    """Starts a policy and a PRM (``none``: no PRM; ``judge``: the policy's engine judges) and stops them at the end.
    ``prm_lora``: a LoRA adapter over the policy that is the PRM, in place of ``prm``. ``grammar``, ``prm_format``,
    ``verdict_tokens``: as `cos.prm.matching.match`. ``threads``, ``dtype``: as `EngineSettings`. A model that runs
    ``elsewhere`` is connected to, and goes on afterwards.

    Errors: InputError for a model that cannot be found, started or matched.
    """
    chosen = choose_prm(policy, prm, prm_format, paired=PAIRED, lora=prm_lora)
    elsewhere.check(policy, prm_lora or chosen.model)
    written = _settings("policy", policy, grammar, threads, dtype, elsewhere)
    own = None if chosen.model is None else _settings("prm", chosen.model, grammar, threads, dtype, elsewhere)
    if prm_lora is not None:
        written, own = _with_adapter(written, prm_lora, elsewhere)
    with _stdout_to_stderr():
        engines = await launch(written, own)
    try:
        reader = chosen.reader(engines.policy, engines.prm)
        models = match(
            engines.policy, reader, grammar=grammar, prm_format=chosen.prm_format, verdict_tokens=verdict_tokens
        )
        _warn(models)
        yield OpenModels(engines, models, chosen)
    finally:
        await engines.close()


@asynccontextmanager
async def open_prm(
    prm: str,
    *,
    lora: str | None = None,
    prm_format: str = menu.AUTO,
    grammar: str = grammars.AUTO,
    threads: int | None = None,
    dtype: str = "auto",
    elsewhere: Elsewhere = NOWHERE_ELSE,
) -> AsyncGenerator[Models]:
    """The same for a PRM alone, which is to score chains that are there already. It stands for their policy, too: the
    chains are written in its vocabulary, in ``grammar``. ``lora``: an adapter over ``prm`` that makes the PRM of it.

    Errors: InputError for a PRM that cannot be found, started or asked so.
    """
    if prm in (NO_PRM, ITSELF):
        raise InputError(
            f"--prm {prm} names no model, and here the PRM is all there is; give a model, and --prm-format {ITSELF} "
            "to ask it as a judge",
            "prm",
        )
    elsewhere.check(None, prm)
    with _stdout_to_stderr():
        settings = _settings("prm" if lora is None else "policy", prm, grammar, threads, dtype, elsewhere)
        if lora is not None:
            here, there = _with_adapter(settings, lora, elsewhere)
            settings = there or here
        engines = await launch(settings, None)
    try:
        reader = engines.prm or engines.policy
        models = match(reader, reader, grammar=grammar, prm_format=prm_format)
        _warn(models)
        yield models
    finally:
        await engines.close()


def _with_adapter(
    policy: EngineSettings, lora: str, elsewhere: Elsewhere
) -> tuple[EngineSettings, EngineSettings | None]:
    """The policy's engine, which runs the adapter as well, and that of an adapter which is served elsewhere."""
    url = elsewhere.url("prm")
    if url is None:
        return replace(policy, adapter=lora), None
    key = elsewhere.api_key("prm")
    return policy, replace(policy, role="prm", runtime="remote", adapter=lora, url=url, api_key=key)


def _warn(models: Models) -> None:
    if unseen := unseen_pictures(models):
        logger.warning("%s; %s", *unseen)


def _settings(
    role: Role, model: str, grammar: str, threads: int | None, dtype: str, elsewhere: Elsewhere
) -> EngineSettings:
    return EngineSettings(
        role=role,
        model=resolve(role, model),
        runtime=runtime_of(model, elsewhere.url(role)),
        grammar=grammar,
        threads=threads,
        dtype=dtype,
        url=elsewhere.url(role),
        api_key=elsewhere.api_key(role),
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
