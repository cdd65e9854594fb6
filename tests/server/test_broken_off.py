"""A request that is broken off, however it is, leaves no picture to the garbage collector."""

import asyncio
import gc
import json
import logging
import weakref
from collections.abc import Callable, Iterator

import pytest
from PIL import Image

from cos.engines.scripted import Script, ScriptedEngine, ScriptedSession
from cos.search.errors import EngineDead, EngineError
from cos.search.prompt import Prompt
from tests.server.support import Served, body, data_uri, listening, picture_bytes, until

SLOW = Script(delay=lambda _, number: 0.0 if number == 0 else 30.0)
NEVER = Script(delay=lambda _, __: 30.0)


class Seen:
    """Every picture that an engine was shown."""

    def __init__(self) -> None:
        self._pictures: list[weakref.ref[Image.Image]] = []

    def note(self, prompt: Prompt) -> None:
        self._pictures += [weakref.ref(picture.image) for picture in prompt.pictures]

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def kept(self) -> int:
        return sum(picture() is not None for picture in self._pictures)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    """What engines are shown, while the collector rests."""
    noted, opened = Seen(), ScriptedEngine.open

    async def open(self: ScriptedEngine, prompt: Prompt) -> ScriptedSession:
        noted.note(prompt)
        return await opened(self, prompt)

    monkeypatch.setattr(ScriptedEngine, "open", open)
    # The test framework keeps every record that is logged, and with it the error of a bug.
    monkeypatch.setattr(logging.getLogger("cos.server.errors"), "disabled", True)
    gc.collect()
    gc.disable()
    yield noted
    gc.enable()


def solve_body(**fields: object) -> tuple[str, dict[str, object]]:
    return "/solve", body(n=4, **fields)


def chat_body(**fields: object) -> tuple[str, dict[str, object]]:
    content = [
        {"type": "text", "text": "How many rows?"},
        {"type": "image_url", "image_url": {"url": data_uri(picture_bytes())}},
    ]
    stream = fields.pop("stream", False)
    return "/v1/chat/completions", {
        "model": "scripted",
        "messages": [{"role": "user", "content": content}],
        "stream": stream,
        "cos": {"n": 4, **fields},
    }


Ask = Callable[..., tuple[str, dict[str, object]]]
ASKS = pytest.mark.parametrize("ask", [solve_body, chat_body], ids=["solve", "chat"])
STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


async def leave(server: Served, path: str, fields: dict[str, object]) -> None:
    """Asks, and closes the connection while both engines are busy."""
    url = server.http.base_url
    _, writer = await asyncio.open_connection(url.host, url.port)
    content = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    await until(lambda: server.in_flight > 0)
    writer.close()
    await writer.wait_closed()
    await until(lambda: server.in_flight == 0)
    await until(lambda: server.service.admission.running == 0)


async def gone(seen: Seen) -> None:
    """Waits for the last turns of the event loop; a picture that is in a cycle stays, however long one waits."""
    assert len(seen) > 0
    await until(lambda: seen.kept == 0)


@ASKS
@STREAMS
async def test_a_client_that_leaves_takes_its_picture_along(seen: Seen, ask: Ask, stream: bool) -> None:
    async with listening(SLOW) as server:
        await leave(server, *ask(stream=stream))
        await gone(seen)


@ASKS
@STREAMS
@pytest.mark.parametrize("script", [NEVER, SLOW], ids=["with nothing", "with something"])
async def test_a_search_out_of_time_keeps_no_picture(seen: Seen, ask: Ask, stream: bool, script: Script) -> None:
    async with listening(script) as server:
        path, fields = ask(stream=stream, budget={"seconds": 0.05})
        await server.http.post(path, json=fields)
        await gone(seen)


@ASKS
@STREAMS
@pytest.mark.parametrize("error", [EngineError, EngineDead, ZeroDivisionError])
@pytest.mark.parametrize("after", [0, 3])
async def test_an_engine_that_fails_keeps_no_picture(
    seen: Seen, ask: Ask, stream: bool, error: type[Exception], after: int
) -> None:
    def fault(_: str, number: int) -> Exception | None:
        return error("it fails") if number >= after else None

    async with listening(Script(fault=fault)) as server:
        path, fields = ask(stream=stream)
        await server.http.post(path, json=fields)
        await gone(seen)


@ASKS
@STREAMS
async def test_a_server_that_stops_keeps_no_picture(seen: Seen, ask: Ask, stream: bool) -> None:
    async with listening(NEVER, shutdown_timeout_s=0) as server:
        path, fields = ask(stream=stream)
        asking = asyncio.create_task(server.http.post(path, json=fields))
        await until(lambda: server.in_flight > 0)
        await server.service.drain()
        await asking
        await gone(seen)


@ASKS
async def test_an_answered_question_keeps_no_picture(seen: Seen, ask: Ask) -> None:
    async with listening() as server:
        path, fields = ask()
        assert (await server.http.post(path, json=fields)).status_code == 200
        await gone(seen)
