"""Starts the two engines: vLLM for checkpoints, the scripted engine for the name ``scripted``."""

import asyncio
from dataclasses import dataclass

from cos.engines.ports import Engine
from cos.engines.settings import EngineSettings

SCRIPTED = "scripted"
"""The model name that needs no model."""


@dataclass(frozen=True, slots=True)
class Engines:
    """The engines of one server."""

    policy: Engine
    prm: Engine | None

    @property
    def all(self) -> tuple[Engine, ...]:
        return (self.policy,) if self.prm is None else (self.policy, self.prm)

    @property
    def are_alive(self) -> bool:
        return all(engine.is_alive for engine in self.all)

    async def close(self) -> None:
        """Stops both, side by side."""
        await asyncio.gather(*(engine.close() for engine in self.all))


async def launch(policy: EngineSettings, prm: EngineSettings | None) -> Engines:
    """Starts what is asked for; returns when all is ready. The event loop stays free meanwhile.

    Errors: InputError for a model that cannot be found or loaded; what was already started is stopped again.
    """
    wanted = [policy] if prm is None else [policy, prm]
    real = [settings for settings in wanted if settings.model != SCRIPTED]
    running = dict(zip((settings.role for settings in real), await _start(real), strict=True))

    def engine(settings: EngineSettings) -> Engine:
        from cos.engines.scripted import ScriptedEngine

        return running.get(settings.role) or ScriptedEngine()

    return Engines(engine(policy), None if prm is None else engine(prm))


async def _start(wanted: list[EngineSettings]) -> list[Engine]:
    if not wanted:
        return []
    from cos.engines.checkpoint import check_model
    from cos.engines.vllm import start_engines

    for settings in wanted:
        check_model(settings)
    return list(await asyncio.to_thread(start_engines, wanted))
