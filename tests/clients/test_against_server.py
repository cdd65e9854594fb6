"""The clients against the real server, over scripted engines: the two sides speak the same language."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from cos.clients import AsyncClient, Client, Solution
from cos.clients.errors import BadRequest, ServerUnreachable, Unauthorized
from cos.clients.in_process import spec_of, stream
from cos.evaluation.in_process import open_models
from cos.server.app import create_app
from cos.server.settings import Settings
from cos.wire.events import Answered, Opened, Proposed, Scored, Selected


@pytest_asyncio.fixture
async def transport() -> AsyncGenerator[httpx.ASGITransport]:
    app = create_app(Settings(policy="scripted"))
    async with app.router.lifespan_context(app):
        yield httpx.ASGITransport(app)


async def test_streams_and_replies_agree(transport: httpx.ASGITransport, png: bytes):
    async with AsyncClient("http://localhost", transport=transport) as client:
        assert await client.is_up()
        whole = await client.solve(png, "How many rows?", strategy="beam", n=4, return_tree=True)
        events = [event async for event in client.stream(png, "How many rows?", strategy="beam", n=4, return_tree=True)]
    assert {type(event) for event in events} == {Opened, Proposed, Scored, Selected, Answered}
    last = events[-1]
    assert isinstance(last, Answered)
    assert essence(last.solution) == essence(whole)
    proposed = [event.candidate.path for event in events if isinstance(event, Proposed)]
    assert sorted(proposed) == [candidate.path for candidate in whole.tree or ()]


async def test_a_search_in_process_is_the_servers(transport: httpx.ASGITransport, png: bytes):
    """Same engines, same seed: the reply must not tell where the search ran."""
    async with AsyncClient("http://localhost", transport=transport) as client:
        served = await client.solve(png, "How many rows?", strategy="best_of_n", n=4, return_tree=True)
    spec = spec_of({"strategy": "best_of_n", "n": 4}, seed=0, prm="scripted")
    async with open_models("scripted", "scripted") as opened:
        events = [event async for event in stream(opened.models, "scripted", [png], "How many rows?", spec)]
    last = events[-1]
    assert isinstance(last, Answered)
    assert essence(last.solution) == essence(served)


def essence(solution: Solution) -> dict[str, Any]:
    """A solution without what differs from run to run and from place to place."""
    told = solution.model_dump(exclude={"id", "timings"})
    told["parameters"].pop("budget", None)
    return told


async def test_bad_values_come_back_with_their_name(transport: httpx.ASGITransport, png: bytes):
    async with AsyncClient("http://localhost", transport=transport) as client:
        with pytest.raises(BadRequest) as caught:
            await client.solve(png, "How many rows?", strategy="beam", n=2, beam_width=3)
        assert "beam_width" in str(caught.value)
        with pytest.raises(BadRequest) as caught:
            await client.solve(png, "How many rows?", strategy="bem")
        assert caught.value.param == "strategy"
        with pytest.raises(BadRequest, match="image"):
            await client.solve(b"no image", "How many rows?")


async def test_keys_are_sent(png: bytes):
    app = create_app(Settings(policy="scripted", api_key=("secret",)))  # pyright: ignore[reportArgumentType]
    async with app.router.lifespan_context(app):
        reach = httpx.ASGITransport(app)
        async with AsyncClient("http://localhost", transport=reach) as nobody:
            assert await nobody.is_up()
            with pytest.raises(Unauthorized):
                await nobody.solve(png, "How many rows?")
        async with AsyncClient("http://localhost", api_key="secret", transport=reach) as somebody:
            assert (await somebody.solve(png, "How many rows?", n=1)).complete


async def test_a_server_that_is_not_there_is_told(png: bytes):
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServerUnreachable):
        await asyncio.to_thread(client.solve, png, "How many rows?")
