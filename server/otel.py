"""The one module that knows OpenTelemetry: recordings become spans, and spans go to a collector by OTLP over HTTP.

The spans of a search are made after its request is over, in a thread of their own, and sent by another one in batches.
A collector that is slow or gone costs spans, whole searches at a time, and never a request or much memory: at most
`MOST_SPANS` wait (``OTEL_BSP_MAX_QUEUE_SIZE``). That spans are lost is logged once, and that they are sent again, too.
"""

import asyncio
import logging
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from urllib.parse import urlsplit

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.environment_variables import OTEL_BSP_MAX_QUEUE_SIZE
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode

from cos.server.recording import Recording, Span
from cos.server.tracing import Ending

logger = logging.getLogger(__name__)

MOST_SPANS = 16_384
"""Spans that may wait for the collector. A wide search has a thousand."""
MOST_SEARCHES = 256
"""Finished searches that may wait to become spans."""
FLUSH_S = 1.5
"""How long a shutdown waits for the collector."""

_HOST = re.compile(r"[^\s/?#@\\]+")


@dataclass(frozen=True, slots=True)
class Clock:
    """One moment on both clocks, so that times of one request are in order whatever happens to the wall clock."""

    perf_s: float = field(default_factory=time.perf_counter)
    wall_ns: int = field(default_factory=time.time_ns)

    def ns(self, perf_s: float) -> int:
        """Unix time, nanoseconds."""
        return self.wall_ns + round((perf_s - self.perf_s) * 1e9)


class OtlpTracer:
    """Satisfies `cos.server.tracing.Tracer`."""

    def __init__(self, exporter: SpanExporter, to: str, *, questions: bool = False) -> None:
        """``to``: the collector's name in log lines. ``questions``: whether spans show what is asked."""
        self._watched = _Watched(exporter, to)
        self._questions = questions
        most = int(os.environ.get(OTEL_BSP_MAX_QUEUE_SIZE, "") or MOST_SPANS)
        self._ledger = _Ledger(most, self._watched)
        # Whoever names the service, or adds to what is told of it, does so by the standard variables.
        ours = Resource.create({"service.name": "cos-serve", "service.version": version("cos-serve")})
        self._provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._watched, max_queue_size=most))
        self._tracer = self._provider.get_tracer("cos.server", version("cos-serve"))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spans")
        self._waiting = threading.BoundedSemaphore(MOST_SEARCHES)

    @classmethod
    def over_http(cls, endpoint: str | None, *, questions: bool = False) -> "OtlpTracer":
        """A tracer that sends to a full address; to that of the standard variables unless given. Errors: ValueError for
        an address that is none."""
        # It quotes an entry of the headers that it cannot read, and those are keys.
        logging.getLogger("opentelemetry.util.re").filters = [_without_headers]
        exporter = trace_exporter.OTLPSpanExporter(endpoint=endpoint)
        address = urlsplit(exporter._endpoint)  # pyright: ignore[reportPrivateUsage]
        # A port that is no number is a ValueError, too.
        _ = address.port
        if address.scheme not in ("http", "https") or not address.hostname or not _HOST.fullmatch(address.hostname):
            raise ValueError("the collector's address must be like http://localhost:4318")
        return cls(exporter, f"{address.scheme}://{address.netloc.rpartition('@')[2]}", questions=questions)

    def begin(self, method: str, path: str, headers: Mapping[str, str], request_id: str) -> "_Trace | None":
        """A request's spans, under those of its caller; None where it is not sampled."""
        clock = Clock()
        attributes = {"http.request.method": method, "url.path": path, "http.route": path, "cos.request_id": request_id}
        root = self._tracer.start_span(
            f"{method} {path}", propagate.extract(headers), SpanKind.SERVER, attributes, start_time=clock.wall_ns
        )
        return _Trace(self, root, clock) if root.is_recording() else None

    def put(self, ended: "_Trace", ending: Ending) -> None:
        """Has a finished request's spans made and sent."""
        if not self._waiting.acquire(blocking=False):
            self._ledger.lose(1)
            return
        try:
            done = self._thread.submit(self._write, ended, ending)
        except RuntimeError:
            self._waiting.release()
            logger.warning("a request ended after %s was let go; its spans are lost", self._watched.to)
            return
        done.add_done_callback(self._note)

    def _note(self, done: "Future[None]") -> None:
        self._waiting.release()
        if (error := done.exception()) is not None:
            logger.error("the spans of a search could not be made: %s", type(error).__name__, exc_info=error)

    def _write(self, ended: "_Trace", ending: Ending) -> None:
        root, clock, recording, account = ended.root, ended.clock, ended.recording, ending.account
        error = account.error if account else None
        # A stream has begun well, with 200, before it fails.
        failed = ending.status >= 500 or (account is not None and account.outcome == "failed")
        parts = recording.spans(failed=failed)
        if not self._ledger.take(1 + sum(map(len, parts))):
            return
        root.set_attributes({"http.response.status_code": ending.status, **recording.attributes()})
        if account is not None and account.outcome is not None:
            root.set_attribute("cos.outcome", account.outcome)
        if account is not None and account.pictures is not None:
            root.set_attribute("cos.pictures", account.pictures)
        if error is not None:
            root.set_attribute("cos.error", error)
        if self._questions and recording.job is not None:
            root.set_attribute("cos.question", recording.job.question.text)
        if failed:
            root.set_attribute("error.type", error or str(ending.status))
            root.set_status(Status(StatusCode.ERROR, error))
        inside = trace.set_span_in_context(root)
        for part in parts:
            self._add(part, inside, clock)
        root.end(max([clock.ns(ending.at), *(clock.ns(part.ended) for part in parts)]))

    def _add(self, part: Span, parent: Context, clock: Clock) -> None:
        span = self._tracer.start_span(part.name, parent, attributes=part.attributes, start_time=clock.ns(part.began))
        if part.failed:
            span.set_status(Status(StatusCode.ERROR))
        if part.parts:
            inside = trace.set_span_in_context(span)
            for inner in part.parts:
                self._add(inner, inside, clock)
        span.end(clock.ns(part.ended))

    async def close(self) -> None:
        """Sends what waits, for `FLUSH_S` at most; the rest is lost, and the log says how much."""
        flushing = threading.Thread(target=self._flush, daemon=True)
        flushing.start()
        await asyncio.to_thread(flushing.join, FLUSH_S)
        if flushing.is_alive():
            # Whatever is being tried again is given up.
            self._watched.shutdown()
        self._ledger.close()

    def _flush(self) -> None:
        self._thread.shutdown()
        self._provider.shutdown()


class _Trace:
    """Satisfies `cos.server.tracing.Trace`."""

    def __init__(self, tracer: OtlpTracer, root: trace.Span, clock: Clock) -> None:
        self.root = root
        self.clock = clock
        self.recording = Recording(trace.format_trace_id(root.get_span_context().trace_id))
        self._tracer = tracer

    def end(self, ending: Ending) -> None:
        self._tracer.put(self, ending)


class _Watched(SpanExporter):
    """An exporter whose failures are told once, in our words, until it works again."""

    def __init__(self, inner: SpanExporter, to: str) -> None:
        self.to = to
        self.sent = 0
        """Spans that the collector has taken."""
        self.failed = 0
        """Spans that it has not."""
        self._inner = inner
        self._is_failing = False
        self._is_closed = False
        self._reasons = _Reasons()
        # They complain of traceparent, tracestate and baggage headers and quote them: clients could fill the log.
        for module in ("opentelemetry.trace", "opentelemetry.baggage"):
            logging.getLogger(module).setLevel(logging.ERROR)
        # It tells of every try.
        for module in (trace_exporter.__name__, "opentelemetry.sdk._shared_internal"):
            theirs = logging.getLogger(module)
            theirs.propagate = False
            theirs.handlers = [self._reasons]

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Sends a batch."""
        try:
            result = self._inner.export(spans)
        except Exception as error:
            self._reasons.last = type(error).__name__
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self.sent += len(spans)
            if self._is_failing:
                self._is_failing = False
                logger.warning("%s takes spans again; %d were lost", self.to, self.failed)
        else:
            self.failed += len(spans)
            if not self._is_failing and not self._is_closed:
                self._is_failing = True
                logger.warning(
                    "%s does not take spans (%s); they are lost until it does, and searches go on",
                    self.to,
                    self._reasons.last,
                )
        return result

    def shutdown(self) -> None:
        """Ends the exporter."""
        if not self._is_closed:
            self._is_closed = True
            self._inner.shutdown()


def _without_headers(record: logging.LogRecord) -> bool:
    record.msg = "OTEL_EXPORTER_OTLP_HEADERS: an entry that cannot be read as name=value is left out"
    record.args = ()
    return True


class _Reasons(logging.Handler):
    """Keeps the last thing that an exporter has complained of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = "no reason told"

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()


class _Ledger:
    """How many spans wait. A search whose spans find no room is lost as a whole."""

    def __init__(self, most: int, watched: _Watched) -> None:
        self._most = most
        self._watched = watched
        self._taken = 0
        self._lost = 0

    @property
    def waiting(self) -> int:
        """Spans that were made and neither sent nor lost yet."""
        return self._taken - self._watched.sent - self._watched.failed

    def take(self, spans: int) -> bool:
        """Whether so many more may wait."""
        if self.waiting + spans > self._most:
            self.lose(spans)
            return False
        self._taken += spans
        return True

    def lose(self, spans: int) -> None:
        """Notes spans that found no room."""
        if not self._lost:
            logger.warning(
                "%s is too slow: %d spans wait, and those of further searches are lost (%s)",
                self._watched.to,
                self.waiting,
                OTEL_BSP_MAX_QUEUE_SIZE,
            )
        self._lost += spans

    def close(self) -> None:
        """Tells how many spans were lost in the end."""
        if lost := self._lost + self._watched.failed + self.waiting:
            logger.warning("%d spans were lost; %d were sent to %s", lost, self._watched.sent, self._watched.to)
