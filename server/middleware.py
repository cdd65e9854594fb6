"""What surrounds every request: its id and its last resort, its count, its page, its key, the size of its body.

Plain ASGI throughout: a middleware that wraps the response in a stream of its own would hide the client's disconnect.
"""

import hashlib
import re
import uuid
from collections.abc import Sequence
from secrets import compare_digest

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cos.search.tasks import forget_traceback, leaving_nothing
from cos.server.errors import (
    BodyTooLarge,
    ClientGone,
    Foreign,
    Unauthorized,
    error_response,
    log_error,
    note_error,
)
from cos.server.logs import about
from cos.server.metrics import Account, Metrics, Outcome
from cos.server.origins import Hosts, Origins, name_of
from cos.server.status import CLIENT_GONE, NotedStatus
from cos.server.unmetered import Unmetered

OPEN_PATHS = frozenset(
    {
        *("/health", "/ready", "/ping", "/version", "/metrics", "/openapi.json"),
        *("/docs", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/favicon-32x32.png"),
    }
)
"""What needs no key. Everything else does, whether it exists or not."""

COUNTED_PATHS = frozenset({"/solve", "/v1/solve", "/v1/chat/completions", "/v1/score", "/v1/rerank"})

READABLE = ("X-Request-Id", "Retry-After")
"""Headers of ours that a page may read."""


_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class RequestId:
    """Gives every response an X-Request-Id, and what is logged meanwhile the same.

    A client's own id is echoed where it is harmless; engines never see it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        with about(request_id=request_id):
            await self._app(scope, receive, send_with_id)


class LastResort:
    """Turns what nobody caught into a 500 of our shape."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def note_begin(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await leaving_nothing(self._app(scope, receive, note_begin))
        except ClientGone:
            pass
        except Exception as error:
            if begun:
                raise
            log_error(error)
            note_error(scope, error)
            forget_traceback(error)
            await error_response(error)(scope, receive, note_begin)


class Accounting:
    """Counts every request for a search exactly once, however it ends."""

    def __init__(self, app: ASGIApp, metrics: Metrics | Unmetered) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in COUNTED_PATHS:
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        path = scope["path"].removeprefix("/v1") if scope["path"].endswith("/solve") else scope["path"]
        state["account"] = account = Account(path, state.get("request_id", ""), recording=state.get("recording"))
        status = NotedStatus(send)

        try:
            await self._app(scope, receive, status)
        finally:
            account.outcome = account.outcome or _outcome(status.code)
            self._metrics.ended(account, account.outcome)


def _outcome(status: int) -> Outcome:
    if status == CLIENT_GONE:
        return "cancelled"
    return "failed" if status >= 500 else "rejected"


class ForeignGuard:
    """Refuses what comes from a foreign page, or for a foreign name, and answers the preflights of the others."""

    def __init__(self, app: ASGIApp, hosts: Hosts, origins: Origins) -> None:
        self._hosts, self._origins = hosts, origins
        # Whatever gets that far may ask, so that any origin is echoed.
        self._app = CORSMiddleware(
            app,
            allow_origin_regex=".*",
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=READABLE,
        )
        self._plain = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._plain(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(headers.get("host"), headers.get("origin"))
        if refusal is not None:
            note_error(scope, refusal)
            await error_response(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, host: str | None, origin: str | None) -> Foreign | None:
        if host is not None and not self._hosts.answer_to(name := name_of(host)):
            return Foreign(
                f"this server does not answer to the host {host[:200]!r}; if that is its name, start it with "
                f"--allowed-hosts {name[:200] or 'NAME'}"
            )
        if origin is not None and not self._origins.answer_to(origin, host or ""):
            return Foreign(
                f"pages of the origin {origin[:200]!r} may not use this server; to let them, start it with "
                f"--allowed-origins {origin[:200]}"
            )
        return None


class Auth:
    """Asks for one of the keys on every path but the open ones. Without keys everything is open."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._digests and scope["path"] not in OPEN_PATHS:
            scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not self._knows(key.strip()):
                refusal = Unauthorized("no valid API key; send the header 'Authorization: Bearer <key>'")
                note_error(scope, refusal)
                await error_response(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _knows(self, key: str) -> bool:
        """Compares with every key, always all of them: the time taken tells nothing."""
        digest = hashlib.sha256(key.encode()).digest()
        return sum(compare_digest(digest, known) for known in self._digests) > 0


class BodyLimit:
    """Refuses a body that is too large: by its Content-Length before anything is read, else as it arrives."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        if length.isdigit() and int(length) > self._max_bytes:
            refusal = self._refusal()
            note_error(scope, refusal)
            await error_response(refusal)(scope, receive, send)
            return
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise self._refusal()
            return message

        await self._app(scope, receive_counted, send)

    def _refusal(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"the request body is over {self._max_bytes / 2**20:g} MiB (--max-body-mib); send a smaller image"
        )
