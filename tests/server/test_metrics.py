"""What a scrape tells: every metric, in both formats, whatever was asked and whatever fails."""

import asyncio
import logging
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from cos.engines.scripted import Script
from cos.search.errors import EngineError
from cos.search.strategies import menu
from cos.server.metrics import Metrics
from tests.server.support import Served, body, data_uri, error_of, picture_bytes, served, until
from tests.server.test_exposition import OPEN_METRICS, Failing

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
STAGES = ("queue", "decode", "open", "generate", "score", "vote", "select")


async def values(server: Served, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a name by the values of their labels, in alphabetical order of the labels' names."""
    text = (await server.http.get("/metrics")).text
    samples = (sample for family in plain_text(text) for sample in family.samples if sample.name == name)
    return {tuple(sample.labels[label] for label in sorted(sample.labels)): sample.value for sample in samples}


def declared() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Type and labels of our own metrics by name, as the code has them."""
    metrics = Metrics()
    metrics.describe(version="1", policy="one", prm="two")
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for collector in metrics.registry._collector_to_names:  # pyright: ignore[reportPrivateUsage]
        for family in collector.collect():
            if not family.name.startswith("cos_"):
                continue
            labels = tuple(getattr(collector, "_labelnames", ()))
            if family.type == "info":
                labels = tuple(family.samples[0].labels)
            suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
            found[f"{family.name}{suffix}"] = (family.type, labels)
    return found


def test_the_table_in_the_docs_has_every_metric_with_its_type_and_labels() -> None:
    rows = re.findall(r"^\| `(cos_\w+)` \| (\w+) \|([^|]*)\| (.+) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    told = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows}
    assert told == declared()


def test_promtool_finds_nothing_to_complain_about() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")

    async def scraped() -> str:
        async with served() as server:
            await server.solve(n=3, strategy="beam")
            return (await server.http.get("/metrics")).text

    text = "".join(
        line for line in asyncio.run(scraped()).splitlines(keepends=True) if re.match(r"(# \w+ )?cos_", line)
    )
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


async def test_metrics_tell_what_was_searched(server: Served) -> None:
    usage = (await server.solve(n=4, strategy="beam")).json()["usage"]
    candidates = await values(server, "cos_candidates_total")
    assert (
        candidates["kept", "beam"] + candidates["duplicate", "beam"] + candidates["pruned", "beam"]
        == (usage["candidates"])
    )
    assert candidates["duplicate", "beam"] == usage["candidates_duplicate"]
    assert candidates["aborted", "beam"] == usage["candidates_aborted"]
    tokens = await values(server, "cos_policy_tokens_total")
    assert all(tokens[outcome, "beam"] == usage[f"tokens_{outcome}"] for outcome, _ in tokens)
    assert sum(tokens.values()) == usage["tokens_generated"]
    ahead = await values(server, "cos_candidates_begun_ahead_total")
    assert ahead == {
        ("used", "beam"): usage["candidates_begun_ahead"],
        ("dropped", "beam"): usage["candidates_begun_in_vain"],
    }
    prompts = await values(server, "cos_prompt_tokens_total")
    for engine in ("policy", "prm"):
        assert prompts[engine, "cached"] == usage[f"{engine}_cached_tokens"]
        assert prompts[engine, "cached"] + prompts[engine, "computed"] == usage[f"{engine}_prompt_tokens"]
    assert (await values(server, "cos_prm_reads_total"))["beam",] == usage["prm_reads"]
    assert (await values(server, "cos_prm_score_count"))["beam",] == usage["candidates"]


async def test_every_search_is_observed_once_in_each_histogram_of_searches(server: Served) -> None:
    reply = (await server.solve(n=4, strategy="beam")).json()
    for name in ("queue_duration", "time_to_first_step", "time_to_answer"):
        assert await values(server, f"cos_{name}_seconds_count") == {("beam",): 1}
    assert await values(server, "cos_search_depth_steps_sum") == {("beam",): len(reply["steps"]) + 1}
    assert await values(server, "cos_image_decode_duration_seconds_count") == {(): 1}
    counts = await values(server, "cos_search_stage_duration_seconds_count")
    assert counts == {(stage, "beam"): 1 for stage in STAGES}
    seconds = await values(server, "cos_search_stage_duration_seconds_sum")
    assert {stage: seconds[stage, "beam"] for stage in STAGES} == pytest.approx(
        {stage: reply["timings"]["stages"][f"{stage}_s"] for stage in STAGES}
    )


@given(strategy=st.sampled_from(sorted(menu())), n=st.integers(1, 4), delay_s=st.sampled_from([0.0, 0.002]))
@settings(max_examples=12)
async def test_stages_over_http_add_up_to_the_wall_time_queue_and_decoding_included(
    strategy: str, n: int, delay_s: float
) -> None:
    script = Script(seconds_per_read=delay_s, delay=lambda kind, number: delay_s * (number % 3))
    fields = {"strategy": strategy, "n": n} if "n" in menu()[strategy].params.model_fields else {"strategy": strategy}
    async with served(script, max_concurrent_searches=1) as server:
        replies = await asyncio.gather(*(server.solve(**{"n": None, **fields}, seed=seed) for seed in range(3)))
        observed = await values(server, "cos_search_stage_duration_seconds_sum")
    timings = [reply.json()["timings"] for reply in replies]
    for told in timings:
        assert sum(told["stages"].values()) == pytest.approx(told["total_s"], rel=0.02)
    assert max(told["stages"]["queue_s"] for told in timings) > 0
    assert min(told["stages"]["decode_s"] for told in timings) > 0
    assert sum(observed.values()) == pytest.approx(sum(told["total_s"] for told in timings), rel=0.02)


async def test_a_latency_leads_to_the_request_that_had_it(server: Served) -> None:
    await server.http.post("/solve", json=body(), headers={"X-Request-Id": "the-slow-one"})
    response = await server.http.get("/metrics", headers=OPEN_METRICS)
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in open_metrics(response.text)}
    for name in ("cos_request_duration_seconds", "cos_time_to_answer_seconds"):
        exemplars = [sample.exemplar for sample in families[name].samples if sample.exemplar is not None]
        assert [exemplar.labels for exemplar in exemplars] == [{"request_id": "the-slow-one"}]


@pytest.mark.parametrize("accept", ["", "*/*", "text/html", "text/plain;version=0.0.4", "application/json"])
async def test_whoever_does_not_ask_for_openmetrics_gets_plain_text(server: Served, accept: str) -> None:
    await server.solve()
    response = await server.http.get("/metrics", headers={"Accept": accept})
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert " # {" not in response.text
    assert {"cos_requests", "process_start_time_seconds", "python_info"} <= {f.name for f in plain_text(response.text)}


async def test_a_failing_collector_of_the_server_is_counted_at_the_next_scrape(
    server: Served, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(server.service.metrics, Metrics)
    server.service.metrics.registry.register(Failing())
    with caplog.at_level(logging.ERROR, "cos.server.exposition"):
        assert (await server.http.get("/metrics")).status_code == 200
        assert (await values(server, "cos_collector_failures_total"))["server",] == 1
    assert len(caplog.records) == 1


async def test_a_scrape_asks_a_frozen_engine_nothing() -> None:
    async with served(engine_patience_s=0.2) as server:
        assert await values(server, "cos_engine_up") == {("policy",): 1, ("prm",): 1}
        server.policy.freeze()
        waiting = asyncio.create_task(server.solve())
        await until(lambda: not server.service.watch.is_well)
        asked = server.policy.in_flight
        assert await values(server, "cos_engine_up") == {("policy",): 0, ("prm",): 1}
        assert await values(server, "cos_engine_freezes_total") == {("policy",): 1, ("prm",): 0}
        assert server.policy.in_flight == asked
        server.policy.thaw()
        assert (await waiting).status_code == 200
        await until(lambda: server.service.watch.is_well)
        assert (await values(server, "cos_engine_up"))["policy",] == 1
        assert (await values(server, "cos_engine_freezes_total"))["policy",] == 1


async def test_a_dead_engine_is_not_up(server: Served) -> None:
    server.policy.kill()
    assert await values(server, "cos_engine_up") == {("policy",): 0, ("prm",): 1}


async def test_failed_requests_count_by_engine() -> None:
    def fault(kind: str, number: int) -> Exception | None:
        return EngineError("failed") if (kind, number) in {("draw", 0), ("read", 1), ("read", 2)} else None

    async with served(Script(fault=fault)) as server:
        await server.solve(strategy="best_of_n", n=4)
        assert await values(server, "cos_engine_request_failures_total") == {("policy",): 1, ("prm",): 2}


ODD: list[dict[str, Any]] = [
    {"strategy": "beam-{}"},
    {"model": "model-{}"},
    {"question": "question {}"},
    {"image": "https://example.org/{}.png"},
    {"image": "{}"},
    {"aggregation": "{}"},
    {"field-{}": 1},
]


async def test_a_thousand_odd_requests_leave_the_number_of_series_bounded() -> None:
    async with served() as server:

        async def send(number: int) -> None:
            odd = {key.format(number): str(value).format(number) for key, value in ODD[number % len(ODD)].items()}
            headers = {"X-Request-Id": f"id-{number}", "X-Strategy": str(number)}
            # One in ten is searched for; the others are refused.
            fields = body() if number % 10 == 0 and "question" in odd else {**body(image="x"), **odd}
            path = ("/solve", "/v1/solve", "/v1/chat/completions", f"/solve/{number}", f"/{number}")[number % 5]
            method = ("POST", "POST", "GET", f"M{number % 7}")[number % 4]
            await server.http.request(method, path, json=fields, headers=headers)

        async def series() -> set[str]:
            text = (await server.http.get("/metrics")).text
            return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}

        for number in range(200):
            await send(number)
        before = await series()
        for number in range(200, 1_000):
            await send(number)
        after = await series()
    assert after == before
    ours = (line for line in after if line.startswith("cos_"))
    found = {pair for line in ours for pair in re.findall(r'(\w+)="([^"]*)"', line)}
    assert {value for name, value in found if name == "strategy"} <= {"", *menu()}
    assert {value for name, value in found if name == "endpoint"} <= {"/solve", "/v1/chat/completions"}


async def test_a_strategy_that_nobody_knows_has_no_series(server: Served) -> None:
    await server.solve(strategy="made-up")
    counted = await values(server, "cos_requests_total")
    assert {labels: number for labels, number in counted.items() if number} == {("/solve", "rejected", ""): 1}


ENDS = ("fine", "unknown", "no json", "bad picture", "leaves", "too many", "too large", "chat", "other model", "tokens")


async def ends(server: Served, how: str, number: int) -> None:
    """One request that ends in its way."""
    match how:
        case "fine":
            await server.solve(seed=number)
        case "unknown":
            await server.solve(strategy="made-up")
        case "no json":
            await server.http.post("/solve", content=b"{", headers={"Content-Type": "application/json"})
        case "bad picture":
            await server.solve(image=data_uri(b"no picture"))
        case "leaves":
            task = asyncio.create_task(server.solve(seed=number))
            await asyncio.sleep(0.001 * (number % 9))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        case "too many":
            await asyncio.gather(*(server.solve(seed=seed) for seed in range(4)))
        case "too large":
            await server.solve(question="x" * 70_000)
        case "chat":
            await server.http.post("/v1/chat/completions", json={"model": "scripted", "messages": []})
        case "other model":
            await server.http.post("/v1/chat/completions", json={"model": "other", "messages": []})
        case _:
            await server.solve(budget={"tokens": number % 40 + 1})


@given(hows=st.lists(st.sampled_from(ENDS), min_size=1, max_size=12))
@settings(max_examples=10)
async def test_requests_received_are_the_sum_over_how_they_ended(hows: list[str]) -> None:
    script = Script(delay=lambda kind, number: 0.0005)
    async with served(script, max_concurrent_searches=1, max_queued_searches=1, max_body_mib=0.05) as server:
        await asyncio.gather(*(ends(server, how, number) for number, how in enumerate(hows)))
        await until(lambda: server.service.admission.running == server.service.admission.queued == 0)
        counted = await values(server, "cos_requests_total")
        observed = await values(server, "cos_request_duration_seconds_count")
    received = len(hows) + 3 * hows.count("too many")
    assert sum(counted.values()) == received
    assert sum(observed.values()) == received


async def test_a_search_that_is_broken_off_counts_what_it_wrote() -> None:
    async with served(Script(seconds_per_token=0.0005)) as server:
        task = asyncio.create_task(server.solve(strategy="best_of_n", n=4))
        await until(lambda: server.policy.steps >= 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: server.in_flight == 0 and server.service.admission.running == 0)
        candidates = await values(server, "cos_candidates_total")
        assert candidates["pruned", "best_of_n"] >= 2
        assert candidates["aborted", "best_of_n"] >= 1
        assert candidates["kept", "best_of_n"] == 0
        assert (await values(server, "cos_policy_tokens_total"))["discarded", "best_of_n"] > 0
        assert (await values(server, "cos_search_stage_duration_seconds_count"))["generate", "best_of_n"] == 1
        assert await values(server, "cos_time_to_answer_seconds_count") == {}


async def test_refusals_of_a_place_count_by_reason() -> None:
    async with served(max_concurrent_searches=1, max_queued_searches=1, timeout_s=1.0) as server:
        assert await values(server, "cos_concurrent_searches_limit") == {(): 1}
        assert await values(server, "cos_queued_searches_limit") == {(): 1}
        async with server.service.admission.place(1):
            waiting = asyncio.create_task(server.solve())
            await until(lambda: server.service.admission.queued == 1)
            assert (await server.solve()).status_code == 429
            assert (await waiting).status_code == 429
        await server.service.admission.drain(0)
        assert (await server.solve()).status_code == 503
        assert await values(server, "cos_admission_rejections_total") == {
            ("queue_full",): 1,
            ("queue_timeout",): 1,
            ("draining",): 1,
        }


async def test_pictures_count_by_what_is_wrong_with_them() -> None:
    wrong = {
        "empty": "",
        "not_base64": "data:image/png;base64,%%",
        "not_an_image": data_uri(b"GIF? no"),
        "too_large": data_uri(picture_bytes(2000, 1000)),
        "aspect_ratio": data_uri(picture_bytes(900, 2)),
        "broken": data_uri(picture_bytes(64, 64)[:60]),
        "address": "https://example.org/a.png",
    }
    async with served(max_image_megapixels=1.0) as server:
        for image in wrong.values():
            assert (await server.solve(image=image)).status_code == 422
        counted = await values(server, "cos_image_rejections_total")
    assert {reason for (reason,), number in counted.items() if number == 1} == set(wrong)
    assert sum(counted.values()) == len(wrong)


async def test_limits_that_end_a_search_are_counted() -> None:
    async with served() as server:
        partial = (await server.solve(strategy="beam", n=4, budget={"tokens": 60})).json()
        assert (await server.solve(strategy="beam", max_steps=1)).status_code == 200
        assert (await values(server, "cos_search_limits_total"))["tokens", "beam"] == 1
        assert partial["finish_reason"] == "tokens"
    async with served(Script(seconds_per_token=1.0)) as server:
        assert (await server.solve(strategy="beam", budget={"seconds": 0.05})).status_code == 504
        counted = await values(server, "cos_search_limits_total")
        assert {labels: number for labels, number in counted.items() if number} == {("seconds", "beam"): 1}


async def test_a_loop_that_is_held_up_shows_as_lag() -> None:
    async with served() as server:
        await asyncio.sleep(0.05)
        # Holds up the loop, as bad code would.
        subprocess.run(["sleep", "0.5"], check=True)
        await asyncio.sleep(0.05)
        buckets = await values(server, "cos_event_loop_lag_seconds_bucket")
    assert buckets["+Inf",] >= 1
    assert buckets["0.1",] < buckets["+Inf",]


async def test_without_metrics_nothing_is_counted_and_the_path_says_so() -> None:
    async with served(metrics=False) as server:
        assert (await server.solve()).status_code == 200
        assert (await server.solve(image="x")).status_code == 422
        response = await server.http.get("/metrics")
        assert response.status_code == 404
        assert error_of(response)["code"] == "metrics_off"
        assert "--no-metrics" in error_of(response)["message"]
        assert server.service.exposition is None


async def test_metrics_need_no_key() -> None:
    async with served(api_key=["secret"]) as server:
        assert (await server.http.get("/metrics")).status_code == httpx.codes.OK
