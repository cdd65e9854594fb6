"""Server-sent events: frames as they come, a comment when nothing comes, an end when the client goes away.

A response of our own in place of Starlette's, because a beat is due every few seconds while a search thinks, because a
client that stops reading must not hold a search for ever, and because an error before the first frame still has its
proper HTTP status.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cos.search.tasks import forget_traceback
from cos.server.errors import ClientGone, error_reply, log_error
from cos.server.race import cancelled, unless_gone

HEARTBEAT_S = 5.0
"""Longest silence: proxies and clients take a longer one for a dead connection, and a dead client is found by it."""
SEND_TIMEOUT_S = 30.0
"""How long a client may leave a frame unread."""

BEAT = ": searching\n\n"
DONE = "data: [DONE]\n\n"

LINE_ENDS = {ord(char): f"\\u{ord(char):04x}" for char in "\u0085\u2028\u2029"}
"""What some clients split lines at besides newlines, as JSON escapes."""

Put = Callable[[str], None]
Work = Callable[[Put], Awaitable[None]]
"""Puts the frames of a response, in order."""
Frames = asyncio.Queue[str | None]
"""Frames that wait to be sent; None is the end. Bounded by what one search can write."""


def frame(data: Any, *, event: str | None = None, number: int | None = None) -> str:
    """One event on the wire. ``data`` is JSON, or text that is JSON already."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, allow_nan=False)
    text = text.translate(LINE_ENDS)
    head = "" if number is None else f"id: {number}\n"
    head += "" if event is None else f"event: {event}\n"
    return f"{head}data: {text}\n\n"


async def open_stream(work: Work, receive: Receive, *, error_event: str | None = None) -> Response:
    """A stream that has begun well: waits for its first frame, or for one heartbeat.

    Errors: ClientGone; those of ``work`` before its first frame, so that they get a status of their own. A later one is
    sent as an event named ``error_event``.
    """
    frames: Frames = asyncio.Queue()
    task = asyncio.create_task(_fill(frames, work))
    try:
        first = await unless_gone(receive, _take(frames))
        if first is None:
            await task
    except BaseException:
        await cancelled(task)
        raise
    return EventStream(frames, task, first, error_event)


async def _fill(frames: Frames, work: Work) -> None:
    try:
        await work(frames.put_nowait)
    finally:
        frames.put_nowait(None)


async def _take(frames: Frames) -> str | None:
    """The next frame, or a beat where it is long in coming."""
    try:
        async with asyncio.timeout(HEARTBEAT_S):
            return await frames.get()
    except TimeoutError:
        return BEAT


class EventStream(Response):
    """A response made of frames, while the task that puts them runs."""

    media_type = "text/event-stream"

    def __init__(self, frames: Frames, task: asyncio.Task[None], first: str | None, error_event: str | None) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._frames = frames
        self._task = task
        self._first = first
        self._error_event = error_event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(ClientGone, TimeoutError):
                await unless_gone(receive, self._stream(scope, send))
        finally:
            await cancelled(self._task)

    async def _stream(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        text = self._first
        while text is not None:
            await _send_text(send, text)
            text = await _take(self._frames)
        try:
            await self._task
        except Exception as error:
            log_error(error)
            forget_traceback(error)
            await _send_text(send, frame(error_reply(error).model_dump_json(), event=self._error_event))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_text(send: Send, text: str) -> None:
    """Errors: TimeoutError when the client reads nothing."""
    async with asyncio.timeout(SEND_TIMEOUT_S):
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
