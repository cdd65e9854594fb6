"""Starts the two engines, each on the runtime that its settings name."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from cos.engines.ports import Runtime
from cos.engines.settings import EngineSettings, RuntimeName

Starter = Callable[[Sequence[EngineSettings]], Awaitable[Sequence[Runtime]]]
"""Starts engines side by side and returns them in their order once all are ready. Errors: InputError for a model that
cannot be found or loaded; what was already started is stopped again."""


@dataclass(frozen=True, slots=True)
class Engines:
    """The engines of one server."""

    policy: Runtime
    prm: Runtime | None
    is_shared: bool = False
    """Whether the PRM is an adapter over the policy's weights, and runs in the policy's engine."""

    @property
    def all(self) -> tuple[Runtime, ...]:
        """Each once."""
        return (self.policy,) if self.prm is None or self.is_shared else (self.policy, self.prm)

    @property
    def are_alive(self) -> bool:
        return all(engine.is_alive for engine in self.all)

    async def close(self) -> None:
        """Stops both, side by side."""
        await asyncio.gather(*(engine.close() for engine in self.all))


async def launch(policy: EngineSettings, prm: EngineSettings | None) -> Engines:
    """Starts what is asked for; returns when all is ready. The event loop stays free meanwhile. Where the policy has an
    adapter that is the PRM, ``prm`` is None.

    Errors: InputError for a model that cannot be found or loaded; what was already started is stopped again.
    """
    wanted = [policy] if prm is None else [policy, prm]
    running: dict[int, Runtime] = {}
    try:
        for name, start in RUNTIMES.items():
            own = {number: settings for number, settings in enumerate(wanted) if settings.runtime == name}
            if own:
                running.update(zip(own, await start([*own.values()]), strict=True))
        if policy.adapter is not None:
            return Engines(running[0], await _adapted(running[0], policy.adapter), is_shared=True)
    except BaseException:
        await asyncio.gather(*(engine.close() for engine in running.values()))
        raise
    return Engines(running[0], running.get(1))


async def _adapted(engine: Runtime, adapter: str) -> Runtime:
    from cos.engines.vllm_adapter import adapt

    return await adapt(engine, adapter)


async def _start_vllm(wanted: Sequence[EngineSettings]) -> Sequence[Runtime]:
    from cos.engines.adapter import fitting_adapter
    from cos.engines.checkpoint import check_model
    from cos.engines.vllm_start import start_engines

    for settings in wanted:
        check_model(settings)
        if settings.adapter is not None:
            fitting_adapter(settings.adapter, settings)
    return await asyncio.to_thread(start_engines, wanted)


async def _start_scripted(wanted: Sequence[EngineSettings]) -> Sequence[Runtime]:
    from cos.engines.scripted import Script, ScriptedEngine
    from cos.engines.scripted_vocabulary import OpenVocabulary
    from cos.search import grammars

    # Each has one of its own: what a PRM format calls a label is no token of the policy's.
    vocabularies = [OpenVocabulary() for _ in wanted]
    scripts = [Script(grammar=grammars.choose(one.grammar, own)) for one, own in zip(wanted, vocabularies, strict=True)]
    return [ScriptedEngine(script, vocabulary=own) for script, own in zip(scripts, vocabularies, strict=True)]


async def _start_remote(wanted: Sequence[EngineSettings]) -> Sequence[Runtime]:
    from cos.engines.remote_start import connect

    return await connect(wanted)


RUNTIMES: Mapping[RuntimeName, Starter] = MappingProxyType(
    # What is elsewhere is asked first: that it is not there is found out before anything is loaded here.
    {"remote": _start_remote, "vllm": _start_vllm, "scripted": _start_scripted}
)
"""The runtimes by name."""
