"""One line in the log for every request, once it is over."""

import logging
import time

from starlette.types import ASGIApp, Receive, Scope, Send

from cos.server.metrics import Account
from cos.server.status import NotedStatus

logger = logging.getLogger(__name__)

PROBES = frozenset({"/health", "/ready", "/ping", "/metrics"})
"""What machines ask every few seconds. Told at level debug only, where all is well."""


class Access:
    """Logs method, path, status and seconds of each request; of one for a search its strategy,
    outcome, pictures and tokens, too.
    Never a query, a header or a body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = NotedStatus(send)

        try:
            await self._app(scope, receive, status)
        finally:
            _log(scope, status.code, time.perf_counter() - started)


def _log(scope: Scope, status: int, seconds: float) -> None:
    fields = {"method": scope["method"], "path": scope["path"], "status": status, "seconds": round(seconds, 6)}
    account: Account | None = scope.get("state", {}).get("account")
    if account is not None:
        fields |= {"strategy": account.strategy or None, "outcome": account.outcome}
        fields |= {"pictures": account.pictures, "tokens": account.tokens}
        if account.error is not None:
            fields["error_code"] = account.error
        if account.question is not None:
            fields["question"] = account.question
    level = logging.DEBUG if status < 400 and scope["path"] in PROBES else logging.INFO
    logger.log(level, "%(method)s %(path)s %(status)d in %(seconds).3f s", fields)
