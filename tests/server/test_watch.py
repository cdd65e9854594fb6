"""Engines that are stuck or gone: told by the probes, told in replies, and the end of the process."""

import asyncio
import time

from cos.engines.launch import Engines
from cos.engines.scripted import Script, ScriptedEngine
from cos.server.watch import Watch
from tests.server.support import error_of, served, until

PATIENCE_S = 0.2


async def test_a_frozen_engine_turns_health_to_503_and_a_thawed_one_back_to_200() -> None:
    for role in ("policy", "prm"):
        async with served(engine_patience_s=PATIENCE_S) as server:
            engine = server.policy if role == "policy" else server.prm
            assert engine is not None
            engine.freeze()
            await until(lambda: not server.service.watch.is_well)
            for path in ("/health", "/ready"):
                assert (await server.http.get(path)).status_code == 503
            assert (await server.http.get("/ping")).status_code == 200
            engine.thaw()
            await until(lambda: server.service.watch.is_well)
            assert (await server.http.get("/health")).status_code == 200


async def test_a_search_that_needs_a_frozen_engine_is_refused_and_one_that_does_not_goes_on() -> None:
    async with served(engine_patience_s=PATIENCE_S) as server:
        assert server.prm is not None
        server.prm.freeze()
        await until(lambda: not server.service.watch.is_well)
        refused = await server.solve()
        assert (refused.status_code, error_of(refused)["code"]) == (503, "engine_stuck")
        assert refused.headers["retry-after"]
        assert (await server.solve(score="likelihood")).status_code == 200
        server.prm.thaw()
        await until(lambda: server.service.watch.is_well)
        assert (await server.solve()).status_code == 200


async def test_by_default_a_frozen_engine_is_told_within_20_seconds() -> None:
    async with served() as server:
        assert server.service.settings.engine_patience_s + 2 * 0.5 < 20


async def test_an_idle_engine_that_answers_probes_stays_well() -> None:
    async with served(engine_patience_s=PATIENCE_S) as server:
        await asyncio.sleep(4 * PATIENCE_S)
        assert (await server.http.get("/health")).status_code == 200


async def test_an_engine_that_only_takes_long_is_not_frozen() -> None:
    async with served(Script(seconds_per_token=0.01), engine_patience_s=PATIENCE_S) as server:
        searching = asyncio.create_task(server.solve(strategy="greedy", n=None))
        await asyncio.sleep(4 * PATIENCE_S)
        assert not searching.done()
        assert (await server.http.get("/health")).status_code == 200
        assert (await searching).status_code == 200


async def test_what_holds_up_the_server_is_no_fault_of_an_engine() -> None:
    async with served(engine_patience_s=PATIENCE_S) as server:
        await asyncio.sleep(PATIENCE_S)
        time.sleep(2 * PATIENCE_S)
        assert (await server.http.get("/health")).status_code == 200


async def test_a_search_that_a_frozen_prm_left_unscored_says_so() -> None:
    async with served() as server:
        assert server.prm is not None
        server.prm.freeze()
        reply = (await server.solve(strategy="best_of_n", budget={"seconds": 0.5})).json()
    assert reply["complete"] is True
    assert reply["confidence"] is None
    assert reply["finish_reason"] == "seconds"
    assert any("of this answer are unscored" in warning for warning in reply["warnings"])


async def test_an_engine_that_dies_is_lost() -> None:
    policy = ScriptedEngine()
    watch = Watch(Engines(policy, ScriptedEngine()), PATIENCE_S)
    watching = asyncio.create_task(watch.run())
    await asyncio.sleep(0)
    assert watch.is_well
    assert not watch.lost.is_set()
    policy.kill()
    async with asyncio.timeout(30):
        await watch.lost.wait()
    assert not watch.is_well
    await watching


async def test_most_scores_missing_is_a_502_of_the_engine_and_some_a_warning() -> None:
    async with served(Script(judge=lambda _, __: float("nan"))) as server:
        response = await server.solve(n=4)
    assert (response.status_code, error_of(response)["code"]) == (502, "engine_error")
    assert response.headers["x-should-retry"] == "false"
