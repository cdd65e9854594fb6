"""Spans of searches: one tree a request, in order and in agreement with the reply, whatever becomes of the request."""

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from cos.engines.scripted import Script
from cos.engines.story import story
from cos.search.errors import EngineError
from cos.search.prompt import Prompt
from cos.search.strategies import menu
from cos.search.types import Turn
from cos.server.otel import OtlpTracer
from tests.server.support import Served, body, listening, served, sse_events, until
from tests.server.test_broken_off import chat_body

LEAVES = ("queue", "decode", "open", "draw", "read", "compare", "ask")


@dataclass(frozen=True)
class Told:
    """The spans of a server that has stopped."""

    exporter: InMemorySpanExporter

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    @property
    def roots(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.kind is SpanKind.SERVER]

    @property
    def root(self) -> ReadableSpan:
        (root,) = self.roots
        return root

    def named(self, *starts: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name.split()[0] in starts]

    def parent(self, span: ReadableSpan) -> ReadableSpan:
        assert span.parent is not None
        (found,) = [one for one in self.spans if id_of(one) == span.parent.span_id]
        return found


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def of(span: ReadableSpan) -> Mapping[str, Any]:
    assert span.attributes is not None
    return span.attributes


def path_of(candidate: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(candidate["path"])


CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@asynccontextmanager
async def traced(
    script: Script | None = None, *, over: Any = served, questions: bool = False, **values: Any
) -> AsyncGenerator[tuple[Served, Told]]:
    """A server, and the spans that there are once it has stopped."""
    exporter = InMemorySpanExporter()
    tracer = OtlpTracer(exporter, "the tests' collector", questions=questions)
    async with over(script, tracer=tracer, **values) as server:
        yield server, Told(exporter)
        if over is served:
            return
    await tracer.close()


def check(told: Told) -> None:
    """What holds of the spans of any one request."""
    root = told.root
    assert root.context is not None
    for span in told.spans:
        assert span.context is not None
        assert span.context.trace_id == root.context.trace_id
        assert span.start_time is not None
        assert span.end_time is not None
        assert span.start_time <= span.end_time
        if span is root:
            continue
        parent = told.parent(span)
        assert parent.start_time is not None
        assert parent.end_time is not None
        assert parent.start_time <= span.start_time
        assert span.end_time <= parent.end_time
        kind = span.name.split()[0]
        allowed = {"level": ("POST",), "candidate": ("level",), "draw": ("candidate",), "read": ("candidate",)}
        assert parent.name.split()[0] in allowed.get(kind, ("POST",))
    for level in told.named("level"):
        inner = [span for span in told.named("candidate") if told.parent(span) is level]
        assert {of(span)["cos.depth"] for span in inner} == {of(level)["cos.depth"]}
    paths = [of(span)["cos.path"] for span in told.named("candidate")]
    assert len(set(paths)) == len(paths)


def late(kind: str, number: int) -> float:
    return random.Random(f"{kind} {number}").random() * 0.003


async def test_a_request_span_tells_how_many_pictures_there_are() -> None:
    async with traced() as (server, told):
        await server.http.post("/solve", json={"question": "How much?"})
        await server.http.post("/solve", json={"question": "Same?", "images": [body()["image"]] * 2})
        await server.http.post("/v1/score", json={"question": "?", "image": body()["image"], "answer": "1"})
        await server.http.post("/solve", json=body(image="%"))
    assert [of(root).get("cos.pictures") for root in told.roots] == [0, 2, 1, None]


@pytest.mark.parametrize("strategy", sorted(menu()))
async def test_the_spans_of_a_search_agree_with_its_reply(strategy: str) -> None:
    n = 4 if "n" in menu()[strategy].params.model_fields else None
    async with traced(Script(delay=late)) as (server, told):
        reply = (await server.solve(strategy=strategy, n=n, return_tree=True)).json()
    check(told)
    usage, root = reply["usage"], of(told.root)
    assert (told.root.name, root["http.response.status_code"], root["cos.outcome"]) == ("POST /solve", 200, "ok")
    assert told.root.status.status_code is StatusCode.UNSET
    assert root["gen_ai.operation.name"] == "chat"
    assert root["gen_ai.request.model"] == root["gen_ai.response.model"] == reply["model"]
    assert root["gen_ai.response.id"] == reply["id"]
    assert root["gen_ai.usage.output_tokens"] == usage["tokens_generated"]
    assert root["gen_ai.usage.input_tokens"] == usage["policy_prompt_tokens"]
    assert root["gen_ai.usage.cache_read.input_tokens"] == usage["policy_cached_tokens"]
    assert root["cos.strategy"] == reply["strategy"]
    assert root.get("cos.chain_score") == reply["chain_score"]
    for name in ("candidates", "candidates_aborted", "candidates_begun_ahead", "tokens_kept", "prm_reads", "unscored"):
        assert root[f"cos.{name}"] == usage[name]

    spans = {tuple(of(span)["cos.path"]): of(span) for span in told.named("candidate")}
    tree = {path_of(candidate): candidate for candidate in reply["tree"]}
    written = {path: span for path, span in spans.items() if "cos.tokens" in span}
    assert written.keys() == tree.keys()
    for path, span in written.items():
        candidate = tree[path]
        assert (span["cos.tokens"], span.get("cos.score"), span["cos.end"]) == (
            candidate["tokens"],
            candidate["score"],
            candidate["end"],
        )
        assert (span["cos.outcome"] == "kept") == candidate["kept"]
    assert sum(span["cos.begun_ahead"] for span in written.values()) == usage["candidates_begun_ahead"]
    assert len(told.named("read")) == usage["prm_reads"]
    tokens: Counter[str] = Counter()
    for span in written.values():
        tokens[span["cos.outcome"]] += span["cos.tokens"]
    discarded, duplicate = tokens["pruned"], tokens["duplicate"]
    assert (discarded, duplicate) == (usage["tokens_discarded"], usage["tokens_duplicate"])
    duplicates = [span for span in written.values() if span["cos.outcome"] == "duplicate"]
    assert len(duplicates) == usage["candidates_duplicate"]
    assert all(span["cos.outcome"] in ("aborted", "failed") for path, span in spans.items() if path not in written)
    assert {span.name for span in told.spans} >= {"queue", "decode", "open", "level 1"}


async def test_an_openai_chat_and_a_stream_have_spans_too() -> None:
    path, chat = chat_body(stream=True)
    async with traced() as (server, told):
        await server.http.post(path, json=chat)
        await server.solve(stream=True)
    assert [(root.name, of(root)["cos.outcome"]) for root in told.roots] == [
        ("POST /v1/chat/completions", "ok"),
        ("POST /solve", "ok"),
    ]
    assert len(told.named("open")) == 2


async def test_every_attribute_stands_in_the_docs() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "tracing.md").read_text(encoding="utf-8")
    async with traced(questions=True) as (server, told):
        await server.solve(strategy="beam", n=4)
        await server.solve(n=999)
    names = {name for span in told.spans for name in of(span)}
    assert {name for name in names if f"`{name}`" not in docs and f"`.{name.rpartition('.')[2]}`" not in docs} == set()


async def test_other_requests_have_no_spans() -> None:
    async with traced() as (server, told):
        for path in ("/health", "/metrics", "/v1/models", "/docs"):
            assert (await server.http.get(path)).status_code == 200
    assert told.spans == ()


async def test_the_span_of_a_request_stands_under_its_callers() -> None:
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    async with traced() as (server, told):
        headers = {"traceparent": f"00-{trace}-{span}-01", "tracestate": "vendor=1", "X-Request-Id": "mine"}
        await server.http.post("/solve", json=body(), headers=headers)
    root = told.root
    assert root.parent is not None
    assert root.context is not None
    assert f"{root.parent.span_id:016x}" == span
    assert f"{root.context.trace_id:032x}" == trace
    assert root.context.trace_state == {"vendor": "1"}
    assert of(root)["cos.request_id"] == "mine"
    check(told)


@pytest.mark.parametrize(
    "parent", ["", "00", "00-0-0-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 10_000, "\xff", "99-a-b-c"]
)
async def test_a_parent_that_is_none_is_let_be(parent: str) -> None:
    async with traced() as (server, told):
        headers = {"traceparent": parent.encode("latin-1")}
        assert (await server.http.post("/solve", json=body(), headers=headers)).status_code == 200  # pyright: ignore[reportArgumentType]
    assert told.root.parent is None


@pytest.mark.parametrize(
    "headers",
    [
        {"baggage": "secret"},
        {"baggage": "secret" * 2_000},
        {"baggage": "a=secret," * 300},
        {"traceparent": CALLER, "tracestate": "A B=secret"},
        {"traceparent": CALLER, "tracestate": ",".join(f"secret{i}=v" for i in range(50))},
        {"traceparent": CALLER.replace("00-", "ff-"), "tracestate": "a=secret,a=secret"},
    ],
)
async def test_headers_of_a_caller_that_cannot_be_used_leave_no_line(
    headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    async with traced() as (server, told):
        assert (await server.http.post("/solve", json=body(), headers=headers)).status_code == 200
    assert told.root
    assert {record.name for record in caplog.records if record.levelno > logging.INFO} == set()
    assert "secret" not in caplog.text


async def test_a_caller_that_samples_nothing_gets_no_spans() -> None:
    async with traced() as (server, told):
        headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}
        assert (await server.http.post("/solve", json=body(), headers=headers)).status_code == 200
    assert told.spans == ()


async def test_a_search_whose_client_leaves_ends_its_spans_there() -> None:
    async with traced(Script(seconds_per_token=0.01), over=listening) as (server, told):
        with pytest.raises(httpx.TimeoutException):
            await server.http.post("/solve", json=body(n=4), timeout=0.3)
        await until(lambda: server.in_flight == 0)
    check(told)
    assert of(told.root)["cos.outcome"] == "cancelled"
    assert told.root.status.status_code is StatusCode.UNSET
    broken_off = [span for span in told.named("draw") if of(span)["cos.outcome"] == "aborted"]
    assert broken_off
    assert all(of(told.parent(span))["cos.outcome"] == "aborted" for span in broken_off)


async def test_a_search_that_fails_says_so_where_it_failed() -> None:
    def fault(kind: str, number: int) -> Exception | None:
        return EngineError("out of memory") if kind == "draw" and number > 3 else None

    async with traced(Script(fault=fault)) as (server, told):
        assert (await server.solve(n=4, strategy="beam")).status_code == 502
    check(told)
    root = told.root
    assert (root.status.status_code, root.status.description) == (StatusCode.ERROR, "engine_error")
    assert (of(root)["error.type"], of(root)["cos.outcome"]) == ("engine_error", "failed")
    failed = [span for span in told.named("draw") if span.status.status_code is StatusCode.ERROR]
    assert failed
    assert all(of(span)["cos.outcome"] == "failed" for span in failed)
    assert "failed" in {of(span).get("cos.outcome") for span in told.named("candidate")}


async def test_a_stream_that_fails_after_it_began_is_an_error_though_its_status_is_200() -> None:
    def fault(kind: str, number: int) -> Exception | None:
        return EngineError("out of memory") if kind == "draw" and number > 3 else None

    async with traced(Script(fault=fault)) as (server, told):
        events = sse_events((await server.solve(n=4, strategy="beam", stream=True)).text)
    assert events[-1].name == "error"
    assert of(told.root)["http.response.status_code"] == 200
    assert told.root.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"n": 999}, 422, "invalid_value"),
        ({"image": "data:image/png;base64,AAAA"}, 422, "invalid_image"),
        ({"nonsense": 1}, 422, "unknown_field"),
        ({"question": "x" * 9_000, "strategy": "greedy", "n": None}, 422, "invalid_value"),
    ],
)
async def test_a_refused_request_has_one_span_that_is_no_error(fields: Any, status: int, code: str) -> None:
    async with traced() as (server, told):
        assert (await server.solve(**fields)).status_code == status
    check(told)
    root = told.root
    assert (of(root)["http.response.status_code"], of(root)["cos.outcome"]) == (status, "rejected")
    assert of(root)["cos.error"] == code
    assert {span.status.status_code for span in told.spans} == {StatusCode.UNSET}


async def test_a_request_that_finds_the_queue_full_is_rejected_in_its_span() -> None:
    slow = Script(seconds_per_token=0.001)
    async with traced(slow, max_concurrent_searches=1, max_queued_searches=0) as (server, told):
        replies = await asyncio.gather(*(server.solve() for _ in range(3)))
    assert sorted(reply.status_code for reply in replies) == [200, 429, 429]
    assert Counter(of(root)["cos.outcome"] for root in told.roots) == {"ok": 1, "rejected": 2}


async def test_spans_hold_what_is_asked_only_where_that_is_wanted() -> None:
    canary = "Kanarienvogel"

    def sing(prompt: Prompt, written: str, rng: random.Random) -> str:
        del prompt
        return story(Prompt((Turn("user", "?"),)), written, rng).replace("part", canary)

    for questions in (False, True):
        async with traced(Script(writer=sing), questions=questions) as (server, told):
            await server.solve(question=f"Where is the {canary}?")
        holding = {name for span in told.spans for name, value in of(span).items() if canary in str(value)}
        assert holding == ({"cos.question"} if questions else set())


async def test_what_is_logged_meanwhile_has_the_traces_id(caplog: pytest.LogCaptureFixture) -> None:
    from cos.server.logs import JsonLines

    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Keep()
    handler.setFormatter(JsonLines())
    logging.getLogger("cos.server.access").addHandler(handler)
    caplog.set_level(logging.INFO)
    try:
        async with traced() as (server, told):
            await server.solve()
    finally:
        logging.getLogger("cos.server.access").removeHandler(handler)
    assert told.root.context is not None
    assert f'"trace_id": "{told.root.context.trace_id:032x}"' in lines[-1]


async def test_the_exemplars_of_latencies_name_the_trace() -> None:
    async with traced() as (server, told):
        await server.solve()
        scraped = (await server.http.get("/metrics", headers={"Accept": "application/openmetrics-text"})).text
    assert told.root.context is not None
    exemplars = {line.partition(" # ")[2].partition("}")[0] for line in scraped.splitlines() if " # {" in line}
    request_id = of(told.root)["cos.request_id"]
    assert exemplars == {f'{{request_id="{request_id}",trace_id="{told.root.context.trace_id:032x}"'}


async def test_searches_side_by_side_keep_their_spans_apart() -> None:
    async with traced(Script(delay=late)) as (server, told), asyncio.TaskGroup() as group:
        asked = [group.create_task(server.solve(n=3, seed=seed, return_tree=True)) for seed in range(40)]
    nodes = {task.result().json()["id"]: len(task.result().json()["tree"]) for task in asked}
    for root in told.roots:
        assert root.context is not None
        mine = [span for span in told.spans if span.context and span.context.trace_id == root.context.trace_id]
        assert len([span for span in mine if "cos.tokens" in of(span)]) == nodes[of(root)["gen_ai.response.id"]]
    assert len(told.roots) == 40


async def test_a_cancelled_search_before_its_engines_are_open_has_spans_all_the_same() -> None:
    async with traced(Script(seconds_per_token=0.01), over=listening, max_concurrent_searches=1) as (server, told):
        first = asyncio.create_task(server.solve(n=4, strategy="best_of_n"))
        await until(lambda: server.in_flight > 0)
        with contextlib.suppress(httpx.TimeoutException):
            await server.http.post("/solve", json=body(), timeout=0.1)
        await first
        await until(lambda: server.in_flight == 0)
    cancelled = [root for root in told.roots if of(root)["cos.outcome"] == "cancelled"]
    assert len(cancelled) == 1
    (queued,) = [span for span in told.named("queue") if of(span)["cos.outcome"] == "aborted"]
    assert told.parent(queued) is cancelled[0]
