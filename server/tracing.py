"""Spans of searches, sent to an OpenTelemetry collector where one is named. Off, nothing of OpenTelemetry is loaded."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from cos.search.errors import InputError
from cos.server.logs import about
from cos.server.metrics import Account
from cos.server.middleware import COUNTED_PATHS
from cos.server.recording import Recording
from cos.server.settings import Settings
from cos.server.status import NotedStatus

PROTOCOL = "http/protobuf"
_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a request ended."""

    at: float
    """`time.perf_counter` seconds."""
    status: int
    account: Account | None


class Trace(Protocol):
    """The spans of one request to be."""

    @property
    def recording(self) -> Recording:
        """What hears of the search."""
        ...

    def end(self, ending: Ending) -> None:
        """Has the spans sent, soon. Returns at once and raises nothing."""
        ...


class Tracer(Protocol):
    """Makes spans of requests and sends them in the background."""

    def begin(self, method: str, path: str, headers: Mapping[str, str], request_id: str) -> Trace | None:
        """A request's spans; None where it is not sampled."""
        ...

    async def close(self) -> None:
        """Sends what waits, for a second or two at most."""
        ...


def open_tracer(settings: Settings, environ: Mapping[str, str] | None = None) -> Tracer | None:
    """A tracer where the settings or the standard variables name a collector. Errors: InputError where the packages for
    it are missing, or where a variable asks for what is not done here."""
    environ = os.environ if environ is None else environ
    if not _is_wanted(settings, environ):
        return None
    endpoint = settings.otlp_endpoint and f"{settings.otlp_endpoint.rstrip('/')}/v1/traces"
    try:
        from cos.server.otel import OtlpTracer

        # Type checkers that follow the links under src/ see this module, and its Trace, twice.
        return OtlpTracer.over_http(endpoint, questions=settings.log_questions)  # pyright: ignore[reportReturnType]
    except ImportError as error:
        cause = "--otlp-endpoint" if settings.otlp_endpoint else f"the variable {_named(environ)}"
        raise InputError(
            f"{cause} needs OpenTelemetry's packages, and {error.name} is not installed: pip install "
            "'cos-serve[otel]', or leave it out (OTEL_SDK_DISABLED=true turns spans off whatever is set)",
            "otlp_endpoint",
        ) from error
    except ValueError as error:
        # Some variables are read as soon as OpenTelemetry is loaded.
        raise InputError(f"spans cannot be sent: {error}; check the OTEL_ variables", "otlp_endpoint") from error


def _is_wanted(settings: Settings, environ: Mapping[str, str]) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if settings.otlp_endpoint:
        return True
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if exporter == "none" or not _named(environ):
        return False
    if exporter != "otlp":
        raise InputError(
            f"OTEL_TRACES_EXPORTER={exporter}: spans are sent by OTLP only; set it to otlp, or to none to send none",
            "otlp_endpoint",
        )
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if (protocol := environ.get(name, "").strip() or PROTOCOL) != PROTOCOL:
            raise InputError(
                f"{name}={protocol}: spans are sent as {PROTOCOL} only; leave it out, and name the collector's HTTP "
                f"port (usually 4318) in {_named(environ)}",
                "otlp_endpoint",
            )
        if environ.get(name, "").strip():
            # The one for traces wins.
            break
    return True


def _named(environ: Mapping[str, str]) -> str | None:
    """The standard variable that names a collector, if one does."""
    return next((name for name in _VARIABLES if environ.get(name, "").strip()), None)


class Tracing:
    """Gives every request for a search its spans, and what is logged meanwhile their trace's id."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace = self._begin(scope)
        if trace is None:
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["recording"] = trace.recording
        status = NotedStatus(send)

        with about(trace_id=trace.recording.trace_id):
            try:
                await self._app(scope, receive, status)
            finally:
                trace.end(Ending(time.perf_counter(), status.code, state.get("account")))

    def _begin(self, scope: Scope) -> Trace | None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in COUNTED_PATHS:
            return None
        request_id = scope.get("state", {}).get("request_id", "")
        return self._tracer.begin(scope["method"], scope["path"], Headers(scope=scope), request_id)
