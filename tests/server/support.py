"""What the server's tests share: pictures, bodies, and servers over scripted engines."""

import asyncio
import base64
import io
import json
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx
import uvicorn
from fastapi import FastAPI
from PIL import Image

from cos.engines.launch import Engines
from cos.engines.scripted import Script, ScriptedEngine
from cos.server.app import create_app
from cos.server.service import Service
from cos.server.settings import Settings
from cos.server.tracing import Tracer


@dataclass(frozen=True)
class Served:
    """A server under test and what stands behind it."""

    app: FastAPI
    http: httpx.AsyncClient
    policy: ScriptedEngine
    prm: ScriptedEngine | None

    @property
    def service(self) -> Service:
        return self.app.state.service

    @property
    def in_flight(self) -> int:
        """Requests under way in both engines."""
        return self.policy.in_flight + (self.prm.in_flight if self.prm else 0)

    async def solve(self, **fields: Any) -> httpx.Response:
        """POST /solve with a good body but for these fields."""
        return await self.http.post("/solve", json=body(**fields))

    async def counted(self, outcome: str) -> float:
        """Requests that ended so, by the server's own metrics."""
        lines = (await self.http.get("/metrics")).text.splitlines()
        found = [line for line in lines if line.startswith("cos_requests_total{") and f'status="{outcome}"' in line]
        return sum(float(line.rpartition(" ")[2]) for line in found)


Serve = Callable[..., AbstractAsyncContextManager[Served]]


def settings(**values: Any) -> Settings:
    """Settings of a scripted server."""
    return Settings(policy="scripted", **values)


def app_over(
    chosen: Settings, policy: ScriptedEngine, prm: ScriptedEngine | None, tracer: Tracer | None = None
) -> FastAPI:
    """The application over these engines."""

    async def start(_: Settings) -> Engines:
        return Engines(policy, prm)

    return create_app(chosen, start=start, tracer=tracer)


@asynccontextmanager
async def served(
    script: Script | None = None, *, tracer: Tracer | None = None, **values: Any
) -> AsyncGenerator[Served]:
    """A server without a socket."""
    chosen = settings(**values)
    policy, prm = ScriptedEngine(script), ScriptedEngine(script) if chosen.prm_choice.model else None
    app = app_over(chosen, policy, prm, tracer)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://localhost", timeout=20
        ) as http,
    ):
        yield Served(app, http, policy, prm)


class Lent:
    """An engine that outlives the server over it."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def close(self) -> None:
        """Its owner stops it."""


@asynccontextmanager
async def served_by(engine: Any, **values: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """A server without a socket over a policy that is running already and goes on running."""

    async def start(_: Settings) -> Engines:
        return Engines(cast("Any", Lent(engine)), None)

    app = create_app(Settings(**values), start=start)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=60) as http,
    ):
        yield http


@asynccontextmanager
async def listening(
    script: Script | None = None, *, tracer: Tracer | None = None, **values: Any
) -> AsyncGenerator[Served]:
    """A server behind a real socket."""
    chosen = settings(**values)
    policy, prm = ScriptedEngine(script), ScriptedEngine(script) if chosen.prm_choice.model else None
    app = app_over(chosen, policy, prm, tracer)
    listener = socket.create_server(("127.0.0.1", 0))
    # The client is to close idle connections first: one that the server closes may just be in use again.
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1, timeout_keep_alive=60)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve([listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        await until(lambda: server.started)
        async with httpx.AsyncClient(base_url=url, timeout=20) as http:
            yield Served(app, http, policy, prm)
    finally:
        server.should_exit = True
        await running


async def until(reached: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits for a state. Errors: TimeoutError."""
    async with asyncio.timeout(seconds):
        while not reached():
            await asyncio.sleep(0.005)


def picture_bytes(width: int = 32, height: int = 24, format: str = "PNG", mode: str = "RGB") -> bytes:
    """A one-coloured picture file."""
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, format)
    return file.getvalue()


def data_uri(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def body(**fields: Any) -> dict[str, Any]:
    """A good body for /solve, but for these fields; None takes one out."""
    good = {"question": "How many rows?", "image": data_uri(picture_bytes()), "n": 2, "seed": 0}
    return {name: value for name, value in {**good, **fields}.items() if value is not None}


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of a reply, whose shape is checked."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@dataclass(frozen=True)
class SseEvent:
    """One server-sent event."""

    name: str | None
    id: str | None
    data: Any


def sse_events(text: str) -> list[SseEvent]:
    """The events of a whole stream; comments are left out."""
    events: list[SseEvent] = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if "data" in fields:
            raw = fields["data"]
            events.append(SseEvent(fields.get("event"), fields.get("id"), raw if raw == "[DONE]" else json.loads(raw)))
    return events
