"""A client that goes away takes its search with it, over a real socket."""

import asyncio
import json
from collections.abc import Mapping

import httpx
import pytest

from cos.engines.scripted import Script
from tests.server.support import Served, body, listening, until

SLOW = Script(seconds_per_token=0.05)
"""A step takes seconds."""
SLOW_READS = Script(seconds_per_read=30)


async def leave(server: Served, fields: Mapping[str, object], path: str = "/solve") -> None:
    """Asks, waits until both engines are busy with it, and closes the connection."""
    url = server.http.base_url
    _, writer = await asyncio.open_connection(url.host, url.port)
    content = json.dumps(fields).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    writer.write(head.encode() + content)
    await until(lambda: server.in_flight > 0)
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [SLOW, SLOW_READS], ids=["while writing", "while reading"])
async def test_engines_are_idle_soon_after_a_client_has_left(stream: bool, script: Script) -> None:
    async with listening(script) as server:
        await leave(server, body(n=8, stream=stream))
        await until(lambda: server.in_flight == 0)
        await until(lambda: server.service.admission.running == 0)
        assert await server.counted("cancelled") == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_client_that_leaves_aborts_its_search_too(stream: bool) -> None:
    fields = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "stream": stream}
    async with listening(SLOW, image_required=False) as server:
        await leave(server, fields, "/v1/chat/completions")
        await until(lambda: server.in_flight == 0)
        assert server.policy.aborted > 0


async def test_a_client_that_leaves_the_queue_frees_its_place_in_it() -> None:
    async with listening(SLOW, max_concurrent_searches=1) as server:
        admission = server.service.admission
        first = asyncio.create_task(server.solve(n=1, max_steps=1, step_tokens=20))
        await until(lambda: admission.running == 1)
        with pytest.raises(httpx.ReadTimeout):
            await server.http.post("/solve", json=body(), timeout=httpx.Timeout(5, read=0.1))
        await until(lambda: admission.queued == 0)
        assert not first.done()
        assert (await first).status_code == 200
        await until(lambda: admission.running == 0)


async def test_others_are_served_while_a_client_leaves() -> None:
    async with listening(Script(seconds_per_token=0.001)) as server:
        staying = [asyncio.create_task(server.solve()) for _ in range(4)]
        await leave(server, body(n=16))
        assert [reply.json()["complete"] for reply in await asyncio.gather(*staying)] == [True] * 4
