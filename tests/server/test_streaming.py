"""POST /solve with ``stream``: what happens, as server-sent events."""

import asyncio

import pytest

from cos.engines.scripted import Script
from cos.engines.story import story
from cos.search.errors import EngineDead
from cos.server import streaming
from tests.server.support import Served, error_of, served, sse_events


async def test_events_tell_the_search_in_order_and_end_with_the_whole_reply(server: Served) -> None:
    response = await server.solve(strategy="beam", n=4, stream=True, return_tree=True)
    events = sse_events(response.text)
    names = [event.name for event in events]
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-request-id"]
    assert names[0] == "opened"
    assert names[-1] == "answered"
    assert set(names) == {"opened", "candidate", "scored", "selected", "answered"}
    assert [event.id for event in events] == [str(number) for number in range(1, len(events) + 1)]
    reply = events[-1].data
    assert events[0].data["id"] == reply["id"]
    assert events[0].data["parameters"] == reply["parameters"]
    assert names.count("candidate") == reply["usage"]["candidates"] == len(reply["tree"])
    plain = (await server.solve(strategy="beam", n=4, return_tree=True)).json()
    assert plain["tree"] == reply["tree"]


async def test_every_score_belongs_to_a_candidate_told_before(server: Served) -> None:
    seen: set[tuple[int, ...]] = set()
    for event in sse_events((await server.solve(stream=True)).text):
        if event.name == "candidate":
            seen.add(tuple(event.data["path"]))
        if event.name == "scored":
            assert tuple(event.data["path"]) in seen


async def test_an_error_before_the_first_event_has_its_own_status(server: Served) -> None:
    response = await server.solve(question="x" * 9000, stream=True)
    assert response.status_code == 422
    assert "9016 tokens of 8192" in error_of(response)["message"]


async def test_an_error_after_the_first_event_is_an_event_of_the_same_shape() -> None:
    fail = Script(fault=lambda kind, number: EngineDead("secret") if number > 3 else None)
    async with served(fail) as server:
        response = await server.solve(stream=True)
        assert await server.counted("failed") == 1
    last = sse_events(response.text)[-1]
    assert response.status_code == 200
    assert last.name == "error"
    assert last.data["error"]["code"] == "engine_dead"
    assert "secret" not in response.text


async def test_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "HEARTBEAT_S", 0.05)
    async with served(Script(seconds_per_token=0.002)) as server:
        text = (await server.solve(stream=True)).text
    assert text.count(streaming.BEAT) >= 3
    assert sse_events(text)[-1].name == "answered"


async def test_a_client_that_reads_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SEND_TIMEOUT_S", 0.05)

    async def receive() -> dict[str, str]:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        if "start" not in str(message):
            await asyncio.Event().wait()

    async def work(put: streaming.Put) -> None:
        put(streaming.frame({"a": 1}))
        await asyncio.Event().wait()

    response = await streaming.open_stream(work, receive)
    async with asyncio.timeout(1):
        await response({"type": "http"}, receive, send)


async def test_a_step_with_line_breaks_and_odd_characters_stays_one_event() -> None:
    def write(*arguments: object) -> str:
        return story(*arguments).replace("I look", "I\nlook\r\n\u2028 data: x\n\n")  # pyright: ignore[reportArgumentType]

    async with served(Script(writer=write)) as server:
        events = sse_events((await server.solve(stream=True)).text)
    assert {event.name for event in events} == {"opened", "candidate", "scored", "selected", "answered"}
