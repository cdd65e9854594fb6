"""A small HTTP server whose every answer a test writes itself, down to the bytes that it leaves out."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: Any


Reply = bytes | None
"""What goes over the wire; None closes the connection without a word."""
Answering = Callable[[Asked], Reply | Awaitable[Reply]]


def answer(body: Any, status: int = 200, **headers: str) -> bytes:
    """A whole answer. A body that is no bytes goes as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


@dataclass
class StubServer:
    """What it was asked, and how it goes."""

    answering: Answering
    asked: list[Asked] = field(default_factory=list[Asked])
    gone: int = 0
    """Requests whose client went away before the answer."""
    port: int = 0
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def of(self, path: str) -> list[Asked]:
        """What was asked there."""
        return [each for each in self.asked if each.path == path]

    async def start(self) -> None:
        """Listens, on the port that it had before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        """Ends as a process ends that is killed: every connection breaks."""
        assert self._server is not None
        self._server.close()
        for writer in [*self._open]:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while asked := await _read(reader):
                if asked.path == "/health":
                    writer.write(answer(b""))
                    continue
                self.asked.append(asked)
                reply = await self._reply(asked, reader)
                if reply is None:
                    break
                writer.write(reply)
                await writer.drain()
                if _is_cut(reply):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _reply(self, asked: Asked, reader: asyncio.StreamReader) -> Reply:
        made = self.answering(asked)
        if not isinstance(made, Awaitable):
            return made
        making, leaving = asyncio.ensure_future(made), asyncio.ensure_future(reader.read(1))
        await asyncio.wait([making, leaving], return_when=asyncio.FIRST_COMPLETED)
        if making.done():
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            return making.result()
        making.cancel()
        self.gone += 1
        return None


def _is_cut(reply: bytes) -> bool:
    head, _, content = reply.partition(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return len(content) < int(length.split(b":")[1])


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    content = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(head[0].split()[1], headers, json.loads(content) if content else None)


@asynccontextmanager
async def stub(answering: Answering) -> AsyncGenerator[StubServer]:
    """Such a server, listening."""
    server = StubServer(answering)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()
