"""Looks after the engines: whether they get on with their work, and whether they are still there."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from cos.engines.launch import Engines
from cos.engines.ports import ComesBack, Runtime
from cos.search.errors import EngineError
from cos.server.race import cancelled

logger = logging.getLogger(__name__)

ENGINES = ("policy", "prm")
LONGEST_TICK_S = 0.5
"""How often it looks."""


@dataclass(slots=True)
class _Pulse:
    """One engine's signs of life."""

    name: str
    engine: Runtime
    steps: int = 0
    silent_s: float = 0.0
    """Since its last step."""
    is_frozen: bool = False
    probe: asyncio.Task[None] | None = field(default=None, repr=False)


class Watch:
    """A watch over engines. One that takes no step is given a small request of its own; one that does not answer that
    is frozen, and well again as soon as it takes a step."""

    def __init__(
        self, engines: Engines, patience_s: float, on_freeze: Callable[[str], None] = lambda engine: None
    ) -> None:
        """``patience_s``: the longest time without a step. ``on_freeze`` is called with the name of an engine that
        freezes."""
        self.lost = asyncio.Event()
        """Set once an engine is gone for good."""
        self._engines = engines
        self._patience_s = patience_s
        self._on_freeze = on_freeze
        self._tick_s = min(LONGEST_TICK_S, patience_s / 10)
        self._pulses = [_Pulse(name, engine) for name, engine in zip(ENGINES, engines.all, strict=False)]

    @property
    def is_well(self) -> bool:
        """Whether every engine lives and works."""
        return self._engines.are_alive and not self.frozen

    @property
    def frozen(self) -> frozenset[str]:
        """Engines that take no step, "policy" or "prm"."""
        return frozenset(pulse.name for pulse in self._pulses if pulse.is_frozen)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the engines: "policy", and "prm" where there is one."""
        return tuple(pulse.name for pulse in self._pulses)

    def is_up(self, name: str) -> bool:
        """Whether an engine lives and works."""
        return any(pulse.name == name and pulse.engine.is_alive and not pulse.is_frozen for pulse in self._pulses)

    async def run(self) -> None:
        """Watches until an engine is lost for good, or until it is cancelled."""
        try:
            while all(engine.is_alive or isinstance(engine, ComesBack) for engine in self._engines.all):
                for pulse in self._pulses:
                    self._feel(pulse)
                # Counted by looks and not by the clock: what holds up this process is no fault of an engine.
                await asyncio.sleep(self._tick_s)
            self.lost.set()
        finally:
            if probes := [pulse.probe for pulse in self._pulses if pulse.probe is not None]:
                await cancelled(*probes)

    def _feel(self, pulse: _Pulse) -> None:
        answered = pulse.probe is not None and pulse.probe.done()
        if answered:
            pulse.probe = None
        if answered or pulse.engine.steps != pulse.steps:
            pulse.steps, pulse.silent_s = pulse.engine.steps, 0.0
        else:
            pulse.silent_s += self._tick_s
        if pulse.probe is None and pulse.silent_s >= self._patience_s / 3:
            pulse.probe = asyncio.create_task(_ask(pulse.engine))
        was_frozen, pulse.is_frozen = pulse.is_frozen, pulse.silent_s >= self._patience_s
        if pulse.is_frozen and not was_frozen:
            self._on_freeze(pulse.name)
            logger.error("the %s engine has taken no step for %g s; /health is 503", pulse.name, self._patience_s)
        if was_frozen and not pulse.is_frozen:
            logger.warning("the %s engine works again", pulse.name)


async def _ask(engine: Runtime) -> None:
    try:
        await engine.probe()
    except EngineError as error:
        # It answered. Whether it is gone is asked elsewhere.
        logger.debug("a probe failed: %s", error)
