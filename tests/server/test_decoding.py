"""When pictures are decoded: after admission, a few at a time, and for nobody who has left."""

import asyncio
import io
import json
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
from PIL import Image

from cos.engines.pictures import SERVED, Origin, PictureLimits, decode
from cos.engines.scripted import Script
from cos.search.types import Picture
from cos.server import images
from cos.server.images import DECODERS, ImageReader
from cos.wire.asked import Sent
from tests.server.support import Served, body, data_uri, error_of, listening, picture_bytes, served, until

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

NEVER = Script(delay=lambda _, __: 30.0)
LARGE = data_uri(picture_bytes(4000, 3000))
"""Twelve megapixels, which take a decoder some 0.1 s and 36 MB."""


class Decoders:
    """Decoders that do nothing until they are let go, and know what they were given."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.unwanted = 0
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()
        self._go = threading.Event()

    def let_go(self) -> None:
        self._go.set()

    def decode(self, data: bytes, origin: Origin, limits: PictureLimits, check: Callable[[], None]) -> Picture:
        with self._lock:
            self.begun.append(data)
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            while not self._go.wait(0.005):
                check()
            return decode(data, origin, limits, check)
        except images.Unwanted:
            self.unwanted += 1
            raise
        finally:
            with self._lock:
                self.running -= 1


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> Decoders:
    replaced = Decoders()
    monkeypatch.setattr(images, "decode", replaced.decode)
    return replaced


@asynccontextmanager
async def full(**values: Any) -> AsyncGenerator[Served]:
    """A server whose only place is taken, with no room in the queue."""
    async with listening(NEVER, max_concurrent_searches=1, max_queued_searches=0, **values) as server:
        searching = asyncio.create_task(server.solve())
        await until(lambda: server.in_flight > 0)
        yield server
        searching.cancel()


def noise(format: str) -> bytes:
    """A picture that no format makes small."""
    file = io.BytesIO()
    Image.effect_noise((1000, 750), 50).convert("RGB").save(file, format)
    return file.getvalue()


def chat(image: str) -> dict[str, Any]:
    parts = [{"type": "text", "text": "How many rows?"}, {"type": "image_url", "image_url": {"url": image}}]
    return {"model": "scripted", "messages": [{"role": "user", "content": parts}]}


async def connect(server: Served, path: str, fields: dict[str, Any], share: float = 1.0) -> Connection:
    """A client that has sent so much of its body."""
    reader, writer = await asyncio.open_connection(server.http.base_url.host, server.http.base_url.port)
    content = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content[: int(share * len(content))])
    await writer.drain()
    return reader, writer


async def test_a_full_server_decodes_nothing_to_say_so(decoders: Decoders) -> None:
    decoders.let_go()
    async with full() as server:
        decoders.begun.clear()
        file = {"image": ("picture.png", picture_bytes())}
        replies = [
            await server.solve(),
            await server.http.post("/v1/chat/completions", json=chat(data_uri(picture_bytes()))),
            await server.http.post("/solve", files=file, data={"question": "How many rows?"}),
        ]
        assert [reply.status_code for reply in replies] == [429, 429, 429]
        assert decoders.begun == []


async def test_forty_large_pictures_at_a_full_server_are_refused_and_cost_no_memory() -> None:
    fields = body(image=LARGE)
    async with full() as server:

        async def ask() -> None:
            reader, writer = await connect(server, "/solve", fields)
            assert b" 429 " in await reader.readline()
            writer.close()

        await asyncio.gather(*(ask() for _ in range(40)))
        before = psutil.Process().memory_info().rss
        await asyncio.gather(*(ask() for _ in range(40)))
        grown = psutil.Process().memory_info().rss - before
    assert grown < 50 * 2**20


async def test_so_many_pictures_are_decoded_at_once_and_no_more(decoders: Decoders) -> None:
    async with served() as server:
        asking = [asyncio.create_task(server.solve(seed=seed)) for seed in range(10)]
        await until(lambda: server.service.admission.running == 10 and decoders.running == DECODERS)
        await asyncio.sleep(0.05)
        decoders.let_go()
        assert [reply.status_code for reply in await asyncio.gather(*asking)] == [200] * 10
    assert decoders.most == DECODERS


@pytest.mark.parametrize("path", ["/solve", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_while_a_picture_waits_or_is_decoded_ends_that(
    decoders: Decoders, path: str, stream: bool
) -> None:
    uri = data_uri(picture_bytes())
    fields = {**(body(image=uri) if path == "/solve" else chat(uri)), "stream": stream}
    async with listening() as server:
        admission = server.service.admission
        decoded = [(await connect(server, path, fields))[1] for _ in range(DECODERS)]
        await until(lambda: decoders.running == DECODERS)
        waiting = [(await connect(server, path, fields))[1] for _ in range(6)]
        await until(lambda: admission.running == DECODERS + 6)
        for client in waiting:
            client.close()
        await until(lambda: admission.running == DECODERS)
        for client in decoded:
            client.close()
        await until(lambda: admission.running == decoders.running == 0)
        assert len(decoders.begun) == decoders.unwanted == DECODERS
        decoders.let_go()
        assert (await server.solve()).status_code == 200
        assert await server.counted("cancelled") == DECODERS + 6


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP"])
def test_decoding_can_be_ended_long_before_its_end(format: str) -> None:
    calls, most = 0, 10**9

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == most:
            raise images.Unwanted

    data = noise(format)
    decode(data, Origin("image"), check=check)
    calls, most = 0, calls // 10
    with pytest.raises(images.Unwanted):
        decode(data, Origin("image"), check=check)
    assert calls == most > 10


async def test_a_place_is_given_back_when_the_picture_is_broken() -> None:
    broken = data_uri(noise("PNG")[:5000])
    async with served(max_concurrent_searches=1, max_queued_searches=0) as server:
        for path, fields, status in (
            ("/solve", body(image=broken), 422),
            ("/v1/chat/completions", chat(broken), 400),
        ):
            reply = await server.http.post(path, json=fields)
            assert (reply.status_code, error_of(reply)["code"]) == (status, "invalid_image")
            assert "a broken image file" in error_of(reply)["message"]
            assert server.service.admission.running == 0
        assert await server.counted("rejected") == 2
        assert (await server.solve()).status_code == 200


@pytest.mark.parametrize("image", [data_uri(b"no picture"), data_uri(picture_bytes(2000, 1)), "http://x/y.png", "a"])
async def test_what_a_header_tells_is_told_before_there_is_a_place(image: str) -> None:
    async with listening(NEVER, max_concurrent_searches=1, max_queued_searches=1) as server:
        searching = asyncio.create_task(server.solve())
        await until(lambda: server.in_flight > 0)
        for stream in (False, True):
            reply = await asyncio.wait_for(server.solve(image=image, stream=stream), 30)
            assert reply.status_code == 422
            assert error_of(reply)["param"] == "image"
        searching.cancel()


async def test_a_reader_that_is_closed_leaves_no_threads() -> None:
    with ImageReader(SERVED) as reader:
        (upload,) = await reader.take([Sent(picture_bytes(), "image")])
        picture = await reader.decode(upload)
        assert picture.image.size == (32, 24)
        decoders = [thread for thread in threading.enumerate() if thread.name.startswith("decoder")]
        assert len(decoders) > 0
    await until(lambda: not any(thread.is_alive() for thread in decoders))


@pytest.mark.parametrize("path", ["/solve", "/v1/chat/completions"])
async def test_a_client_that_leaves_before_its_body_is_there_is_no_error_of_ours(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with listening() as server:
        _, client = await connect(server, path, body() if path == "/solve" else chat(LARGE), share=0.5)
        await asyncio.sleep(0.05)
        client.close()
        async with asyncio.timeout(30):
            while await server.counted("cancelled") < 1:
                await asyncio.sleep(0.01)
        assert await server.counted("failed") == 0
    assert caplog.records == []


async def test_a_form_that_ends_halfway_is_no_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with listening() as server:
        _, writer = await asyncio.open_connection(server.http.base_url.host, server.http.base_url.port)
        head = "POST /solve HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        part = '--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\nabc'
        writer.write(f"{head}Content-Length: 5000\r\n\r\n{part}".encode())
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()
        async with asyncio.timeout(30):
            while await server.counted("cancelled") < 1:
                await asyncio.sleep(0.01)
    assert caplog.records == []
