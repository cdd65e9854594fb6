"""Who may search: bounds, order, overload, dead engines, and the end of the server."""

import asyncio

import pytest

from cos.engines.scripted import Script
from cos.search.errors import EngineError
from cos.server.admission import Admission
from cos.server.errors import Draining, Overloaded
from tests.server.support import error_of, served, until

SLOW = Script(seconds_per_token=0.002)


async def test_one_request_more_than_places_and_queue_is_refused_at_once() -> None:
    async with served(SLOW, max_concurrent_searches=2, max_queued_searches=3) as server:
        accepted = [asyncio.create_task(server.solve(seed=number)) for number in range(5)]
        await until(lambda: server.service.admission.queued == 3)
        refused = await server.solve()
        assert server.service.admission.queued == 3, "it waited for no place"
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert error_of(refused)["type"] == "rate_limit_error"
        assert [reply.status_code for reply in await asyncio.gather(*accepted)] == [200] * 5
        assert max(reply.json()["timings"]["stages"]["queue_s"] for reply in [await task for task in accepted]) > 0.1
        assert (await server.solve()).status_code == 200
        metrics = (await server.http.get("/metrics")).text
        assert 'cos_admission_rejections_total{reason="queue_full"} 1.0' in metrics
        assert "cos_requests_in_progress 0.0" in metrics


async def test_a_burst_is_answered_or_refused_and_nobody_is_lost() -> None:
    async with served(max_concurrent_searches=8, max_queued_searches=16) as server:
        replies = await asyncio.gather(*(server.solve(seed=number, n=1) for number in range(100)))
        codes = [reply.status_code for reply in replies]
        assert codes.count(200) + codes.count(429) == 100
        assert codes.count(200) >= 24
        assert await server.counted("ok") == codes.count(200)
        assert await server.counted("rejected") == codes.count(429)


async def test_searches_side_by_side_do_not_change_each_other() -> None:
    async with served(Script(seconds_per_token=0.0001)) as server:
        alone = [(await server.solve(seed=seed, return_tree=True)).json() for seed in range(6)]
        together = await asyncio.gather(*(server.solve(seed=seed, return_tree=True) for seed in range(6)))
    assert [reply["tree"] for reply in alone] == [reply.json()["tree"] for reply in together]


async def test_places_go_in_the_order_of_asking() -> None:
    admission, order = Admission(1, 10), list[int]()

    async def ask(number: int) -> None:
        async with admission.place(1):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(ask(number) for number in range(8)))
    assert order == list(range(8))


async def test_patience_in_the_queue_ends() -> None:
    admission = Admission(1, 10)
    async with admission.place(1):
        with pytest.raises(Overloaded, match=r"within 0\.01 s"):
            async with admission.place(0.01):
                pass
    assert (admission.running, admission.queued) == (0, 0)


async def test_draining_refuses_newcomers_and_the_queue_and_waits_for_the_rest() -> None:
    admission = Admission(1, 10)

    async def ask() -> None:
        async with admission.place(1):
            await asyncio.sleep(0.05)

    running, waiting = asyncio.create_task(ask()), asyncio.create_task(ask())
    await asyncio.sleep(0)
    assert await admission.drain(1) is True
    await running
    with pytest.raises(Draining):
        await waiting
    with pytest.raises(Draining):
        await ask()


async def test_a_draining_server_is_not_ready_and_finishes_what_it_has_begun() -> None:
    async with served(SLOW) as server:
        searching = asyncio.create_task(server.solve())
        await until(lambda: server.in_flight > 0)
        draining = asyncio.create_task(server.service.drain())
        await asyncio.sleep(0)
        late, ready = await server.solve(), await server.http.get("/ready")
        assert (late.status_code, error_of(late)["code"], ready.status_code) == (503, "shutting_down", 503)
        assert late.headers["retry-after"]
        assert (await server.http.get("/health")).status_code == 200
        assert (await searching).status_code == 200
        await draining


async def test_a_search_that_outlives_the_shutdown_timeout_answers_with_its_best_so_far() -> None:
    late = Script(delay=lambda kind, number: 60.0 if kind == "draw" and number >= 6 else 0.0)
    async with served(late, shutdown_timeout_s=0) as server:
        searching = asyncio.create_task(server.solve(strategy="beam", n=4))
        await until(lambda: server.policy.steps > 3 and server.policy.in_flight > 0)
        await server.service.drain()
        response = await searching
        assert response.status_code == 200
        reply = response.json()
        assert (reply["finish_reason"], reply["complete"]) == ("shutdown", False)
        assert reply["steps"]
        assert server.in_flight == 0
        assert (await server.solve()).status_code == 503


async def test_a_search_that_outlives_the_shutdown_timeout_with_nothing_to_show_is_a_503() -> None:
    async with served(Script(seconds_per_token=0.05), shutdown_timeout_s=0) as server:
        searching = asyncio.create_task(server.solve())
        await until(lambda: server.in_flight > 0)
        await server.service.drain()
        response = await searching
        assert (response.status_code, error_of(response)["code"]) == (503, "shutting_down")
        assert server.in_flight == 0


async def test_a_dead_engine_is_told_by_health_and_by_every_search() -> None:
    async with served(SLOW) as server:
        searching = asyncio.create_task(server.solve())
        await until(lambda: server.in_flight > 0)
        server.policy.kill()
        caught, late = await searching, await server.solve()
        for response in (caught, late):
            assert (response.status_code, error_of(response)["code"]) == (503, "engine_dead")
            assert response.headers["retry-after"]
        assert (await server.http.get("/health")).status_code == 503
        assert (await server.http.get("/ready")).status_code == 503
        assert (await server.http.get("/ping")).status_code == 200


@pytest.mark.parametrize("strategy", ["beam", "best_of_n", "greedy_prm", "weighted_vote"])
async def test_a_dead_prm_refuses_what_is_decided_by_its_scores(strategy: str) -> None:
    async with served() as server:
        assert server.prm is not None
        server.prm.kill()
        response = await server.solve(strategy=strategy)
        assert (response.status_code, error_of(response)["code"]) == (503, "engine_dead")
        assert (await server.http.get("/health")).status_code == 503


@pytest.mark.parametrize(
    "fields", [{"strategy": "greedy", "n": None}, {"strategy": "self_consistency"}, {"score": "likelihood"}]
)
async def test_a_dead_prm_refuses_nothing_that_needs_no_score_of_its(fields: dict[str, object]) -> None:
    async with served() as server:
        assert server.prm is not None
        server.prm.kill()
        response = await server.solve(**fields)
        assert response.status_code == 200
        assert response.json()["answer"]


async def test_a_request_that_fails_in_the_engine_is_a_502_that_clients_do_not_repeat() -> None:
    fail = Script(fault=lambda kind, number: EngineError("secret text") if kind == "draw" else None)
    async with served(fail) as server:
        response = await server.solve()
    assert (response.status_code, error_of(response)["code"]) == (502, "engine_error")
    assert response.headers["x-should-retry"] == "false"
    assert "secret" not in response.text


async def test_a_time_limit_before_the_first_candidate_is_a_504() -> None:
    async with served(SLOW) as server:
        response = await server.solve(budget={"seconds": 0.02})
        assert (response.status_code, error_of(response)["code"]) == (504, "timeout")
        assert response.headers["x-should-retry"] == "false"


async def test_a_time_limit_after_the_first_candidate_gives_the_best_chain_so_far() -> None:
    async with served(SLOW) as server:
        reply = (await server.solve(budget={"seconds": 0.3})).json()
        assert reply["finish_reason"] == "seconds"
        assert reply["complete"] is False
        assert len(reply["steps"]) >= 1
