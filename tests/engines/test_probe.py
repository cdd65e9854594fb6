"""An engine answers a probe, which counts as a step; one that was stopped does not, until it goes on."""

import asyncio
from typing import Any

import pytest

from cos.engines.scripted import ScriptedEngine
from cos.search.errors import EngineDead
from cos.search.ports import Draw, Stops
from cos.search.prompt import Prompt
from cos.search.types import Turn

PROMPT = Prompt((Turn("user", "?"),))
DRAW = Draw(max_tokens=4, stops=Stops(), seed=1)


async def test_a_request_is_a_step_and_a_probe_comes_back() -> None:
    engine = ScriptedEngine()
    await (await engine.open(PROMPT)).draw((), DRAW)
    assert engine.steps == 1
    await engine.probe()


async def test_a_frozen_engine_answers_neither_requests_nor_probes_and_loses_none() -> None:
    engine = ScriptedEngine()
    session = await engine.open(PROMPT)
    engine.freeze()
    asked: list[asyncio.Task[Any]] = [asyncio.create_task(session.draw((), DRAW)), asyncio.create_task(engine.probe())]
    done, _ = await asyncio.wait(asked, timeout=0.1)
    assert not done
    assert (engine.is_alive, engine.steps) == (True, 0)
    engine.thaw()
    await asyncio.gather(*asked)
    assert engine.steps == 1


async def test_a_frozen_engine_that_is_killed_is_dead_to_all_that_wait() -> None:
    engine = ScriptedEngine()
    session = await engine.open(PROMPT)
    engine.freeze()
    asked: list[asyncio.Task[Any]] = [asyncio.create_task(session.draw((), DRAW)), asyncio.create_task(engine.probe())]
    await asyncio.sleep(0)
    engine.kill()
    ended = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(error, EngineDead) for error in ended)
    with pytest.raises(EngineDead):
        await engine.probe()
