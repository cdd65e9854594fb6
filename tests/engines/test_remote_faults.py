"""What can go wrong with a vLLM elsewhere: each failure is an error of its own kind, and never a score."""

import asyncio
import math
import time
from dataclasses import replace
from typing import Any

import pytest

from cos.engines.launch import Engines
from cos.engines.remote_errors import RemoteDead, RemoteRefusal
from cos.engines.remote_http import Address
from cos.engines.scripted import ScriptedEngine
from cos.prm.matching import match
from cos.search.errors import ChainTooLong, EngineDead, EngineError
from cos.search.ports import Draw, Stops
from cos.search.prompt import Prompt
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.types import Question, Turn
from cos.server.watch import Watch
from tests.engines.stub_server import Answering, Asked, Reply, answer
from tests.engines.stub_vllm import GENERATE, refusal, remote, works, written
from tests.server.support import until

ASKED = Prompt((Turn("user", "?"),))
DRAW = Draw(max_tokens=4, stops=Stops(), seed=1)


async def failure(answering: Answering, **told: Any) -> tuple[EngineError, int]:
    """The error of one draw, and how often it was asked for."""
    async with remote(answering, **told) as (engine, server):
        session = await engine.open(ASKED)
        with pytest.raises(EngineError) as error:
            await session.draw((), DRAW)
        assert server.url in str(error.value)
        return error.value, len(server.of(GENERATE))


async def test_a_draw_is_what_the_other_server_wrote() -> None:
    async with remote(works) as (engine, server):
        drawn = await (await engine.open(ASKED)).draw((1, 2), DRAW)
    assert (drawn.written, drawn.finish, drawn.stop, drawn.logprob) == ((40,), "length", None, None)
    assert drawn.prompt_tokens == 2 + 2
    (asked,) = server.of(GENERATE)
    assert asked.body["token_ids"][2:] == [1, 2]
    assert (asked.body["model"], asked.body["sampling_params"]["seed"]) == ("m", 1)


async def test_a_chain_that_has_no_room_there_is_an_error_of_its_own_and_not_sent() -> None:
    async with remote(works) as (engine, server):
        session = await engine.open(ASKED)
        with pytest.raises(ChainTooLong, match="longer than the policy's context of 2048 has room for"):
            await session.draw((1,) * 2048, DRAW)
    assert not server.of(GENERATE)


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "give its key by --policy-api-key or COS_POLICY_API_KEY"),
        (404, "--policy must be a name that it serves"),
        (500, "its log may say why"),
        (400, "its log may say why"),
    ],
)
async def test_a_refusal_is_told_with_its_status_its_words_and_what_to_do_and_is_not_repeated(
    status: int, advice: str
) -> None:
    error, times = await failure(lambda asked: refusal(status, "the reason"))
    assert isinstance(error, RemoteRefusal)
    assert not isinstance(error, EngineDead)
    for part in (str(status), "the reason", advice):
        assert part in str(error)
    assert times == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_what_is_put_off_is_asked_again_and_then_told(status: int) -> None:
    error, times = await failure(lambda asked: refusal(status, Retry_After="0"), retries=2)
    assert isinstance(error, RemoteRefusal)
    assert f"answered {GENERATE} with {status}" in str(error)
    assert "too much to do" in str(error)
    assert times == 3


async def test_what_is_put_off_for_longer_than_a_search_waits_is_not_asked_again() -> None:
    _, times = await failure(lambda asked: refusal(429, Retry_After="3600"))
    assert times == 1


async def test_a_retry_after_is_obeyed() -> None:
    replies = [refusal(429, Retry_After="0.05")]
    async with remote(lambda asked: replies.pop() if replies else works(asked)) as (engine, _):
        began = time.monotonic()
        assert (await (await engine.open(ASKED)).draw((), DRAW)).written
        assert time.monotonic() - began >= 0.05


async def test_what_is_no_json_is_told_by_its_beginning() -> None:
    error, times = await failure(lambda asked: answer(b"<html>Welcome</html>"))
    assert "no JSON ('<html>Welcome</html>')" in str(error)
    assert times == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"choices": None},
        {"choices": [], "usage": {"prompt_tokens": 1}},
        {"choices": [{}], "usage": {"prompt_tokens": 1}},
    ],
)
async def test_json_of_another_form_is_an_error_of_the_remote(body: Any) -> None:
    error, times = await failure(lambda asked: answer(body))
    assert "vLLM 0.32" in str(error)
    assert times == 1


async def test_an_answer_that_breaks_off_is_not_asked_for_again() -> None:
    error, times = await failure(lambda asked: answer(written(asked))[:-5])
    assert "broke off in the middle of its answer" in str(error)
    assert times == 1


async def test_a_connection_that_closes_before_an_answer_is_tried_again() -> None:
    replies: list[Reply] = [None, None]
    async with remote(lambda asked: replies.pop() if replies else works(asked)) as (engine, server):
        assert (await (await engine.open(ASKED)).draw((), DRAW)).written
        assert len(server.of(GENERATE)) == 3


async def test_one_that_always_closes_is_told() -> None:
    error, times = await failure(lambda asked: None, retries=1)
    assert "closed the connection before it answered" in str(error)
    assert times == 2


async def never(asked: Asked) -> Reply:
    await asyncio.sleep(60)
    return None


async def test_a_time_out_is_told_and_not_repeated() -> None:
    error, times = await failure(never, timeout_s=0.1)
    assert "did not answer" in str(error)
    assert "0.1 s" in str(error)
    assert "--remote-timeout-s" in str(error)
    assert not isinstance(error, EngineDead)
    assert times == 1


async def test_nobody_there_is_dead() -> None:
    async with remote(works) as (engine, server):
        session = await engine.open(ASKED)
        await server.kill()
        with pytest.raises(RemoteDead, match=f"{server.url} cannot be reached.* correct --policy-url"):
            await session.draw((), DRAW)
        assert not engine.is_alive
        with pytest.raises(RemoteDead):
            await engine.open(ASKED)
        with pytest.raises(RemoteDead):
            await engine.probe()


async def test_one_that_is_killed_ends_all_requests_under_way_and_is_found_when_it_is_back() -> None:
    async with remote(never) as (engine, server):
        watch = Watch(Engines(engine, None), patience_s=15)
        watching = asyncio.create_task(watch.run())
        session = await engine.open(ASKED)
        draws = [asyncio.create_task(session.draw((), DRAW)) for _ in range(8)]
        await until(lambda: len(server.asked) == 8)
        await server.kill()
        async with asyncio.timeout(30):
            ended = await asyncio.gather(*draws, return_exceptions=True)
        assert {type(error) for error in ended} == {RemoteDead}
        assert not watch.is_well
        server.answering = works
        await server.start()
        await until(lambda: engine.is_alive)
        assert (await session.draw((), DRAW)).written
        assert watch.is_well
        assert not watch.lost.is_set(), "what may come back is not lost for good"
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_a_search_whose_policy_is_killed_ends_in_the_remotes_own_error() -> None:
    async with remote(never) as (engine, server):
        models = match(engine, ScriptedEngine())
        searching = asyncio.create_task(solve(Question("?"), SearchSpec("beam", {"n": 4, "beam_width": 2}), models))
        await until(lambda: len(server.asked) > 0)
        await server.kill()
        with pytest.raises(RemoteDead):
            async with asyncio.timeout(30):
                await searching


async def test_a_cancelled_request_closes_its_connection_and_leaves_nothing_behind() -> None:
    async with remote(never) as (engine, server):
        session = await engine.open(ASKED)
        draws = [asyncio.create_task(session.draw((), DRAW)) for _ in range(4)]
        await until(lambda: len(server.asked) == 4)
        for draw in draws:
            draw.cancel()
        await asyncio.gather(*draws, return_exceptions=True)
        await until(lambda: server.gone == 4)
        assert engine.in_flight == 0
        assert engine.is_alive


def labelled(*pairs: tuple[int, float | None]) -> dict[str, Any]:
    top = [{"token_id": token, "logprob": logprob} for token, logprob in pairs]
    return {"logprobs": {"content": [{"token_id": 40, "logprob": -0.1, "top_logprobs": top}]}}


@pytest.mark.parametrize(
    ("told", "read"),
    [
        (labelled((3, -0.5), (4, -1.5)), (-0.5, -1.5)),
        (labelled((4, -1.5), (3, -0.5), (40, -0.1)), (-0.5, -1.5)),
        (labelled((3, -9999.0), (4, -9999.0)), (math.nan, math.nan)),
        (labelled((3, -9999.0), (4, 0.0)), (-math.inf, 0.0)),
        (labelled((3, -0.5)), (-0.5, math.nan)),
        (labelled((3, None), (4, -0.5)), (math.nan, -0.5)),
        ({"logprobs": None}, (math.nan, math.nan)),
        ({"logprobs": {"content": []}}, (math.nan, math.nan)),
    ],
)
async def test_a_label_that_was_not_told_is_no_number(told: dict[str, Any], read: tuple[float, float]) -> None:
    async with remote(lambda asked: answer(written(asked, **told))) as (engine, server):
        found = await (await engine.open(ASKED)).read_labels((1,), (3, 4), 0)
        (asked,) = server.of(GENERATE)
    assert found.logprobs == pytest.approx(read, nan_ok=True)
    assert set(asked.body["sampling_params"]["logprob_token_ids"]) == {3, 4}


async def test_a_server_that_reads_another_prompt_is_refused() -> None:
    def drifting(asked: Asked) -> Reply:
        return answer({**written(asked), "usage": {"prompt_tokens": len(asked.body["token_ids"]) + 1}})

    error, _ = await failure(drifting)
    assert "run this model in process" in str(error)


async def test_a_key_goes_over_and_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        async with remote(lambda asked: refusal(401), api_key="sk-secret") as (engine, server):
            session = await engine.open(ASKED)
            with pytest.raises(RemoteRefusal) as error:
                await session.draw((), DRAW)
            assert server.asked[0].headers["authorization"] == "Bearer sk-secret"
            address = Address(url=server.url, role="policy", api_key="sk-secret")
            shown = f"{address!r} {engine.settings!r} {error.value}"
    assert "sk-secret" not in caplog.text + shown


async def test_a_shorter_context_may_be_asked_for() -> None:
    async with remote(works) as (engine, _):
        assert engine.context_tokens == 2048
        engine.settings = replace(engine.settings, max_model_len=64)
        assert engine.context_tokens == 64
