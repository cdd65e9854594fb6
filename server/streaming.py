"""Server-sent events: frames as they come, a comment when nothing comes, an end when the client goes away.

A response of our own in place of Starlette's, because a beat is due every few seconds while a search thinks, because a
client that stops reading must not hold a search for ever, and because an error before the first frame still has its
proper HTTP status.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cos.server.disconnect import unless_gone
from cos.server.errors import ClientGone, error_reply, log_error

HEARTBEAT_S = 5.0
"""Longest silence: proxies and clients take a longer one for a dead connection, and a dead client is found by it."""
SEND_TIMEOUT_S = 30.0
"""How long a client may leave a frame unread."""

BEAT = ": searching\n\n"
DONE = "data: [DONE]\n\n"


def frame(data: Any, *, event: str | None = None, number: int | None = None) -> str:
    """One event on the wire. ``data`` is JSON, or text that is JSON already."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, allow_nan=False)
    head = "" if number is None else f"id: {number}\n"
    head += "" if event is None else f"event: {event}\n"
    return f"{head}data: {text}\n\n"


def error_frame(error: Exception, *, event: str | None) -> str:
    """An error that comes after the response has begun."""
    return frame(error_reply(error).model_dump_json(), event=event)


async def open_stream(frames: AsyncGenerator[str], receive: Receive, *, error_event: str | None) -> Response:
    """A stream that has begun well: waits for its first frame, or for one heartbeat.

    Errors: ClientGone; those of ``frames`` while it waits, so that they still get a status of their own.
    """
    first = asyncio.create_task(_next(frames))
    try:
        await unless_gone(receive, _settled(first))
        if first.done():
            first.result()
    except BaseException:
        await _stop(first)
        raise
    return EventStream(frames, first, error_event)


async def _next(frames: AsyncGenerator[str]) -> str | None:
    """The next frame; None at the end."""
    return await anext(frames, None)


async def _settled(first: asyncio.Task[str | None]) -> None:
    await asyncio.wait({first}, timeout=HEARTBEAT_S)


async def _stop(pending: asyncio.Task[str | None]) -> None:
    pending.cancel()
    await asyncio.wait({pending})


class EventStream(Response):
    """A response made of frames, the first of which is already under way."""

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[str], first: "asyncio.Task[str | None]", error_event: str | None) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._frames = frames
        self._pending = first
        self._error_event = error_event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientGone):
            await unless_gone(receive, self._stream(scope, send))

    async def _stream(self, scope: Scope, send: Send) -> None:
        try:
            async with aclosing(self._frames):
                try:
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    await self._send_frames(scope, send)
                finally:
                    await _stop(self._pending)
        except TimeoutError:
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_frames(self, scope: Scope, send: Send) -> None:
        while True:
            await asyncio.wait({self._pending}, timeout=HEARTBEAT_S)
            try:
                text = self._pending.result() if self._pending.done() else BEAT
            except Exception as error:
                log_error(error, scope)
                await _put(send, error_frame(error, event=self._error_event))
                return
            if text is None:
                return
            if self._pending.done():
                self._pending = asyncio.create_task(_next(self._frames))
            await _put(send, text)


async def _put(send: Send, text: str) -> None:
    """Errors: TimeoutError when the client reads nothing."""
    async with asyncio.timeout(SEND_TIMEOUT_S):
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
