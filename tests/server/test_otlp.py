"""Spans on their way to a collector: over the wire, by the standard variables, and with a collector that fails."""

import asyncio
import gzip
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cos.engines.scripted import Script
from cos.search.errors import InputError
from cos.server.otel import OtlpTracer
from cos.server.tracing import open_tracer
from tests.server.support import body, listening, served, settings, until
from tests.server.test_cli import ended, running


@dataclass(slots=True)
class Collector:
    """A collector on loopback that keeps what it takes."""

    url: str = ""
    answer: int = 200
    delay_s: float = 0.0
    tried: int = 0
    requests: list[ExportTraceServiceRequest] = field(default_factory=list[ExportTraceServiceRequest])
    headers: list[Mapping[str, str]] = field(default_factory=list[Mapping[str, str]])
    paths: list[str] = field(default_factory=list[str])

    @property
    def spans(self) -> list[Any]:
        return [
            span for each in self.requests for one in each.resource_spans for s in one.scope_spans for span in s.spans
        ]

    @property
    def service(self) -> dict[str, str]:
        attributes = self.requests[0].resource_spans[0].resource.attributes
        return {pair.key: pair.value.string_value for pair in attributes}


@contextmanager
def collecting(**values: Any) -> Generator[Collector]:
    collector = Collector(**values)
    gone = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.tried += 1
            data = self.rfile.read(int(self.headers["Content-Length"]))
            gone.wait(collector.delay_s)
            if collector.answer == 200:
                if self.headers["Content-Encoding"] == "gzip":
                    data = gzip.decompress(data)
                collector.requests.append(ExportTraceServiceRequest.FromString(data))
                collector.headers.append(dict(self.headers))
                collector.paths.append(self.path)
            self.send_response(collector.answer)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda request, client_address: None
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield collector
        finally:
            gone.set()
            server.shutdown()
            thread.join()


def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


async def test_a_collector_gets_the_spans_of_a_search() -> None:
    with collecting() as collector:
        async with served(otlp_endpoint=collector.url + "/") as server:
            reply = (await server.solve(return_tree=True)).json()
    assert set(collector.paths) == {"/v1/traces"}
    candidates = [span for span in collector.spans if span.name.startswith("candidate")]
    assert len([span for span in candidates if any(pair.key == "cos.tokens" for pair in span.attributes)]) == len(
        reply["tree"]
    )
    (root,) = [span for span in collector.spans if not span.parent_span_id]
    assert root.name == "POST /solve"
    assert collector.service["service.name"] == "cos-serve"
    assert collector.service["service.version"]
    assert abs(root.start_time_unix_nano / 1e9 - time.time()) < 60


async def test_the_standard_variables_name_collector_service_and_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=lab")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=abc")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        async with served() as server:
            await server.solve()
    assert (collector.service["service.name"], collector.service["deployment.environment.name"]) == ("mine", "lab")
    assert collector.headers[0]["x-token"] == "abc"
    assert collector.spans


async def test_the_sampler_of_the_standard_variables_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with collecting() as collector:
        async with served(otlp_endpoint=collector.url) as server:
            assert (await server.solve()).status_code == 200
    assert collector.tried == 0


@pytest.mark.parametrize(
    ("environ", "flag", "wanted"),
    [
        ({}, None, False),
        ({}, "http://localhost:4318", True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, None, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/v1/traces"}, None, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, None, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_TRACES_EXPORTER": "none"}, None, False),
        ({"OTEL_SDK_DISABLED": "true"}, "http://localhost:4318", False),
    ],
)
async def test_spans_are_sent_where_a_collector_is_named(
    environ: dict[str, str], flag: str | None, wanted: bool
) -> None:
    tracer = open_tracer(settings(otlp_endpoint=flag), environ)
    assert (tracer is not None) == wanted
    if tracer is not None:
        await tracer.close()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc.*http/protobuf.*4318"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER=zipkin.*otlp"),
    ],
)
def test_what_the_variables_ask_for_and_is_not_done_is_told(environ: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        open_tracer(settings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317", **environ})


def test_a_variable_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "many")
    with pytest.raises(InputError, match=r"many.*OTEL_"):
        open_tracer(settings(otlp_endpoint="http://localhost:4318"))


@pytest.mark.parametrize("name", ["OTEL_PROPAGATORS", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"])
def test_a_variable_that_is_read_as_the_packages_load_is_told_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "nothing-known")
    code, output = ended("--policy", "scripted", "--otlp-endpoint", "http://localhost:4318")
    assert code == 2
    assert "nothing-known" in output
    assert "Traceback" not in output


async def test_headers_for_the_collector_that_cannot_be_read_are_not_shown(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key: secret")
    tracer = open_tracer(settings(otlp_endpoint="http://localhost:4318"))
    assert tracer is not None
    await tracer.close()
    assert "OTEL_EXPORTER_OTLP_HEADERS" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("flag", [True, False])
def test_without_its_packages_a_start_says_what_to_install(flag: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cos.server.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    environ = {} if flag else {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}
    named = "--otlp-endpoint" if flag else "OTEL_EXPORTER_OTLP_ENDPOINT"
    with pytest.raises(InputError, match=rf"{named}.*opentelemetry is not installed: pip install 'cos-serve\[otel\]'"):
        open_tracer(settings(otlp_endpoint="http://localhost:4318" if flag else None), environ)


def test_an_address_that_is_none_is_told_at_the_start() -> None:
    code, output = ended("--policy", "scripted", "--otlp-endpoint", "localhost:4317")
    assert code == 2
    assert "http://localhost:4318" in output


@pytest.mark.parametrize(
    "address", ["localhost:4318", "grpc://localhost:4317", "http:///v1", "http://a b", "http://a:b"]
)
def test_an_address_in_a_variable_that_is_none_is_told_at_the_start(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    with pytest.raises(InputError, match=r"spans cannot be sent: .*OTEL_"):
        open_tracer(settings())


OFF = """
import asyncio, sys
from tests.server.support import served

async def main():
    async with served() as server:
        assert (await server.solve()).status_code == 200
    print(sorted({name.partition(".")[0] for name in sys.modules if name.startswith("opentelemetry")}))

asyncio.run(main())
"""


def test_off_nothing_of_opentelemetry_is_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", OFF], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_server_that_is_stopped_sends_what_it_has() -> None:
    with collecting() as collector, running("--otlp-endpoint", collector.url) as (process, url, _):
        assert httpx.post(f"{url}/solve", json=body()).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert [span.name for span in collector.spans if not span.parent_span_id] == ["POST /solve"]


async def test_a_collector_that_is_gone_is_told_once_and_costs_no_request(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "5")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.3")
    caplog.set_level(logging.WARNING)
    async with served(otlp_endpoint=nobody()) as server:
        for _ in range(3):
            assert (await server.solve()).status_code == 200
            await asyncio.sleep(0.1)
        await until(lambda: "does not take spans" in caplog.text)
    assert caplog.text.count("does not take spans") == 1
    assert "spans were lost; 0 were sent" in caplog.text
    assert all(record.name == "cos.server.otel" for record in caplog.records)


async def test_a_collector_that_comes_back_is_told_too(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "5")
    caplog.set_level(logging.WARNING)
    with collecting(answer=400) as collector:
        async with served(otlp_endpoint=collector.url) as server:
            await server.solve()
            await until(lambda: "does not take spans" in caplog.text)
            collector.answer = 200
            await server.solve()
            await until(lambda: "takes spans again" in caplog.text)
    assert collector.spans


async def test_a_collector_that_does_not_answer_costs_no_request_and_little_of_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "5")
    caplog.set_level(logging.WARNING)
    with collecting(delay_s=60) as collector:
        async with listening(otlp_endpoint=collector.url) as server:
            assert (await server.solve()).status_code == 200
            await until(lambda: collector.tried > 0)
            replies = await asyncio.gather(*(server.solve(seed=seed) for seed in range(8)))
            assert {reply.status_code for reply in replies} == {200}
    # It ended, though the collector never answered.
    assert "spans were lost; 0 were sent" in caplog.text


class Stuck(SpanExporter):
    """An exporter that waits until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.most = 0

    def export(self, spans: Any) -> SpanExportResult:
        self.most = max(self.most, len(spans))
        self.go.wait()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.go.set()


async def test_spans_that_find_no_room_are_lost_by_whole_searches_and_that_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "600")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "5")
    caplog.set_level(logging.WARNING)
    stuck = Stuck()
    async with served(tracer=OtlpTracer(stuck, "the tests' collector")) as server:
        for seed in range(40):
            assert (await server.solve(n=8, seed=seed)).status_code == 200
        await until(lambda: "is too slow" in caplog.text)
        stuck.go.set()
    assert caplog.text.count("is too slow") == 1
    assert "spans were lost" in caplog.text


async def test_a_request_that_ends_after_the_collector_was_let_go_says_so(caplog: pytest.LogCaptureFixture) -> None:
    tracer = OtlpTracer(InMemorySpanExporter(), "the collector")
    async with served(Script(seconds_per_token=0.0005), tracer=tracer) as server:
        solving = asyncio.create_task(server.solve())
        await until(lambda: server.in_flight > 0)
        await tracer.close()
        assert (await solving).status_code == 200
    assert "ended after the collector was let go" in caplog.text
    assert "too slow" not in caplog.text


async def test_many_spans_are_made_beside_the_searches_and_not_within() -> None:
    """The event loop makes none: that is a thread's."""
    threads: set[str] = set()
    tracer = OtlpTracer(InMemorySpanExporter(), "the tests' collector")
    write: Callable[..., None] = tracer._write  # pyright: ignore[reportPrivateUsage]

    def noting(*given: Any) -> None:
        threads.add(threading.current_thread().name)
        write(*given)

    tracer._write = noting  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    async with served(Script(), tracer=tracer) as server:
        await server.solve()
    assert len(threads) == 1
    assert threads.pop().startswith("spans")
