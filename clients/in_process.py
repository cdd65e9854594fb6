"""A search in this process, with the events and the reply of a server."""

import asyncio
import contextlib
import os
import sys
import uuid
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from cos.checkpoints import EMBEDDED, resolve
from cos.engines.launch import launch
from cos.engines.pictures import Origin, decode
from cos.engines.settings import SCRIPTED, EngineSettings, Role, runtime_of
from cos.prm.matching import match
from cos.search.errors import InputError
from cos.search.models import Models
from cos.search.run import run
from cos.search.select import ScoreKind
from cos.search.spec import SearchSpec
from cos.search.terms import parse_sampling
from cos.search.types import Question
from cos.wire.events import Event
from cos.wire.job import Job

NO_PRM = "none"


def prm_for(policy: str, prm: str | None) -> str:
    """The PRM that goes with a policy. Errors: InputError for a policy that has none of its own."""
    if prm is None and policy not in (EMBEDDED, SCRIPTED):
        raise InputError(
            f"--policy {policy} needs a --prm: give the PRM trained for it, or none to rank by likelihood", "prm"
        )
    return policy if prm is None else prm


def spec_of(options: Mapping[str, Any], *, seed: int, prm: str) -> SearchSpec:
    """The search that these fields of `cos.wire.request.Options` ask for, with this PRM or with ``none``. Errors:
    InputError naming the value that cannot be used."""
    sampling = {name: options[name] for name in ("temperature", "top_p") if name in options}
    return SearchSpec(
        options["strategy"],
        {name: options[name] for name in ("n", "beam_width") if name in options},
        sampling=parse_sampling({**sampling, "seed": seed}),
        score=_score_kind(options.get("score"), prm),
        aggregation=options.get("aggregation"),
    )


def _score_kind(wanted: ScoreKind | None, prm: str) -> ScoreKind:
    if prm != NO_PRM:
        return wanted or "prm"
    if wanted == "prm":
        raise InputError("--score prm needs a PRM; give --prm, or --score likelihood", "score")
    return "likelihood"


@asynccontextmanager
async def running(policy: str, prm: str, *, grammar: str = "auto", prm_format: str = "auto") -> AsyncGenerator[Models]:
    """Starts a policy and a PRM (``none``: no PRM), matches them, and stops them at the end. ``grammar``,
    ``prm_format``: as `cos.prm.matching.match`.

    Errors: InputError for a model that cannot be found, started or matched.
    """
    wanted = _settings("policy", policy, grammar)
    wanted_prm = None if prm == NO_PRM else _settings("prm", prm, grammar)
    with _stdout_to_stderr():
        engines = await launch(wanted, wanted_prm)
    try:
        yield match(engines.policy, engines.prm, grammar=grammar, prm_format=prm_format)
    finally:
        await engines.close()


def _settings(role: Role, model: str, grammar: str) -> EngineSettings:
    return EngineSettings(role=role, model=resolve(role, model), runtime=runtime_of(model), grammar=grammar)


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


async def stream(
    models: Models, name: str, image: bytes, question: str, spec: SearchSpec, choices: tuple[str, ...] = ()
) -> AsyncGenerator[Event]:
    """What happens in the search, as it happens; the last event holds the solution. ``name``: the policy's.

    Errors: InputError, EngineError, SearchFailed.
    """
    picture = await asyncio.to_thread(decode, image, Origin("image"))
    job = Job(
        id=f"local-{uuid.uuid4().hex}",
        model=Path(name).name,
        question=Question(question, picture, choices),
        spec=spec,
        scale=models.scorer.scale if models.scorer else None,
        return_tree=True,
    )
    async with aclosing(run(job.question, job.spec, models)) as events:
        async for event in events:
            yield job.event(event)
