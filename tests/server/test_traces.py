"""Stored searches: what stands in a trace, and that storing never costs a request."""

import asyncio
import io
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cos.engines.scripted import Script
from cos.search.errors import InputError
from cos.search.result import Result
from cos.server.flags import load_settings
from cos.server.metrics import Metrics
from cos.server.traces import MOST_WAITING, TraceStore
from cos.wire.job import Job
from cos.wire.trace import VERSION, read_trace
from tests.server.support import Served, body, data_uri, listening, picture_bytes, served, until

STORED = ("cos_traces_total", {"status": "stored"})
FAILED = ("cos_traces_total", {"status": "failed"})


def wordy(*_: object) -> str:
    """A text that is no step, and long."""
    return "no step at all " * 60


def traces(folder: Path) -> list[dict[str, Any]]:
    """All traces of a folder, the earliest first."""
    found = [json.loads(path.read_text()) for path in folder.glob("*/*.json")]
    return sorted(found, key=lambda trace: trace["time"])


def images(folder: Path) -> Sequence[Path]:
    return sorted((folder / "images").iterdir())


def counted(server: Served, series: tuple[str, dict[str, str]]) -> float | None:
    """A series' value, by the server's own metrics."""
    assert isinstance(server.service.metrics, Metrics)
    return server.service.metrics.registry.get_sample_value(*series)


async def test_a_trace_holds_the_whole_search_with_scores_and_likelihoods(tmp_path: Path) -> None:
    async with served(trace_dir=tmp_path) as server:
        reply = (await server.solve(strategy="beam", n=4, return_tree=True)).json()
    (trace,) = traces(tmp_path)
    assert trace["version"] == VERSION
    for name in (
        "id",
        "question",
        "strategy",
        "parameters",
        "answer",
        "chain_score",
        "finish_reason",
        "usage",
        "timings",
    ):
        assert trace[name] == reply[name], name
    assert trace["tree"] == reply["tree"]
    kept = [candidate["path"] for candidate in trace["tree"] if candidate["kept"]]
    assert kept[-1] == trace["chain"]
    assert (trace["policy"], trace["grammar"], trace["prm"]) == ("scripted", "cos", "scripted")
    probability = {"is_probability": True, "threshold": 0.5, "lowest": 0.0, "highest": 1.0}
    assert trace["scale"] == {**probability, "judges": "steps"}
    assert all(found["logprob"] is None and found["score"] is not None for found in trace["tree"])


async def test_a_stored_trace_is_read_as_what_was_written(tmp_path: Path) -> None:
    async with served(Script(writer=wordy), trace_dir=tmp_path) as server:
        await server.solve(step_tokens=1_500)
    (path,) = tmp_path.glob("*/*.json")
    trace = read_trace(path.read_bytes())
    assert trace.is_judged
    assert {candidate.end for candidate in trace.tree} == {"broken"}
    assert {candidate.text.removesuffix("<|im_end|>") for candidate in trace.tree} == {wordy()}, "no text is cut"
    assert json.loads(trace.model_dump_json()) == json.loads(path.read_text())


async def test_likelihood_searches_store_log_probabilities(tmp_path: Path) -> None:
    async with served(trace_dir=tmp_path) as server:
        await server.solve(score="likelihood")
    (trace,) = traces(tmp_path)
    assert trace["parameters"]["score"] == "likelihood"
    assert all(candidate["logprob"] < 0 for candidate in trace["tree"])


async def test_a_file_is_named_by_day_and_reply(tmp_path: Path) -> None:
    async with served(trace_dir=tmp_path) as server:
        name = (await server.solve()).json()["id"]
    (path,) = tmp_path.glob("*/*.json")
    assert path.stem == name
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", path.parent.name)
    assert json.loads(path.read_text())["time"].startswith(path.parent.name)


async def test_a_picture_is_stored_once_decoded_however_often_and_in_what_format_it_is_sent(tmp_path: Path) -> None:
    red = io.BytesIO()
    Image.new("RGB", (9, 7), (200, 0, 0)).save(red, "BMP")
    async with served(trace_dir=tmp_path) as server:
        for format in ("PNG", "BMP", "PNG"):
            await server.solve(image=data_uri(picture_bytes(format=format)))
        await server.solve(image=data_uri(red.getvalue()))
    assert len(images(tmp_path)) == 2
    found = traces(tmp_path)
    assert len({trace["images"][0] for trace in found[:3]}) == 1
    with Image.open(tmp_path / found[3]["images"][0]) as stored:
        assert (stored.format, stored.mode, stored.size) == ("PNG", "RGB", (9, 7))
        assert stored.getpixel((0, 0)) == (200, 0, 0)


async def test_a_question_without_a_picture_names_none(tmp_path: Path) -> None:
    async with served(trace_dir=tmp_path) as server:
        await server.solve(image=None)
    assert traces(tmp_path)[0]["images"] == []


async def test_all_pictures_and_the_conversation_are_stored_in_the_order_in_which_they_were_shown(
    tmp_path: Path,
) -> None:
    shown = [data_uri(picture_bytes(width)) for width in (10, 20, 30)]
    earlier = [
        {"type": "text", "text": "Look: "},
        {"type": "image_url", "image_url": {"url": shown[0]}},
        {"type": "text", "text": "How many?"},
    ]
    history = [{"role": "user", "content": earlier}, {"role": "assistant", "content": "2"}]
    async with served(trace_dir=tmp_path) as server:
        await server.solve(image=None, images=shown[1:], history=history)
    (trace,) = traces(tmp_path)

    def width(name: str) -> int:
        with Image.open(tmp_path / name) as stored:
            return stored.width

    assert [width(name) for name in trace["images"]] == [20, 30]
    asked, answered = trace["history"]
    assert [(part["text"], part["image"] and width(part["image"])) for part in asked["content"]] == [
        ("Look: ", None),
        (None, 10),
        ("How many?", None),
    ]
    assert (answered["role"], answered["content"][0]["text"]) == ("assistant", "2")


async def test_chat_streams_and_partial_searches_leave_traces_too(tmp_path: Path) -> None:
    message = {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": data_uri(picture_bytes())}},
            {"type": "text", "text": "Q?"},
        ],
    }
    async with listening(trace_dir=tmp_path) as server:
        chat = {"model": "scripted", "messages": [message], "cos": {"n": 2}}
        replied = (await server.http.post("/v1/chat/completions", json=chat)).json()
        await server.http.post("/v1/chat/completions", json={**chat, "stream": True})
        await server.http.post("/solve", json=body(stream=True))
        cut = (await server.solve(budget={"prm_reads": 1})).json()
    found = {trace["id"]: trace for trace in traces(tmp_path)}
    assert len(found) == 4
    assert replied["cos"]["id"] in found
    assert found[cut["id"]]["finish_reason"] == "prm_reads"
    assert found[cut["id"]]["answer"] == cut["answer"]


async def test_refused_requests_leave_none_and_nothing_is_stored_unless_asked(tmp_path: Path) -> None:
    async with served(trace_dir=tmp_path) as server:
        assert (await server.solve(n=1_000)).status_code == 422
    assert traces(tmp_path) == []
    async with served() as server:
        assert server.service.traces is None


async def test_no_key_gets_into_a_trace(tmp_path: Path) -> None:
    async with served(trace_dir=tmp_path, api_key=["secret-key"]) as server:
        headers = {"Authorization": "Bearer secret-key"}
        assert (await server.http.post("/solve", json=body(), headers=headers)).status_code == 200
    (path,) = tmp_path.glob("*/*.json")
    assert "secret-key" not in path.read_text()


async def test_stored_traces_are_counted_and_written_whole(tmp_path: Path) -> None:
    async with served(trace_dir=tmp_path) as server:
        await asyncio.gather(*(server.solve(seed=seed) for seed in range(8)))
        await until(lambda: counted(server, STORED) == 8)
    assert len(traces(tmp_path)) == 8
    assert [path for path in tmp_path.rglob("*") if path.name.startswith(".")] == []


async def test_a_disk_that_fails_costs_the_trace_and_not_the_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "traces"
    async with served(trace_dir=folder) as server:
        shutil.rmtree(folder)
        folder.write_text("a file where the folder was")
        response = await server.solve()
        assert (response.status_code, response.json()["complete"]) == (200, True)
        await until(lambda: counted(server, FAILED) == 1)
        assert "cos_traces_total" in (await server.http.get("/metrics")).text
    assert f"trace {response.json()['id']} was not stored" in caplog.text


async def test_a_disk_that_is_too_slow_loses_traces_instead_of_filling_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    going = threading.Event()

    def slow(self: TraceStore, job: Job, result: Result, grammar: str, ended: datetime) -> None:
        going.wait(60)

    monkeypatch.setattr(TraceStore, "_store", slow)
    async with served(trace_dir=tmp_path, max_concurrent_searches=MOST_WAITING + 1) as server:
        replies = await asyncio.gather(*(server.solve(n=1, seed=seed) for seed in range(MOST_WAITING + 1)))
        assert {reply.status_code for reply in replies} == {200}
        assert counted(server, FAILED) == 1
        going.set()
    assert f"{MOST_WAITING} others wait" in caplog.text
    assert counted(server, STORED) == MOST_WAITING


async def test_a_folder_that_cannot_be_written_to_is_told_before_any_engine_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--trace-dir .*file/traces cannot be written to: Not a directory"):
        async with served(trace_dir=tmp_path / "file" / "traces"):
            pass


def test_the_folder_is_a_flag_and_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings([]).trace_dir is None
    assert load_settings(["--trace-dir", str(tmp_path)]).trace_dir == tmp_path
    monkeypatch.setenv("COS_TRACE_DIR", str(tmp_path))
    assert load_settings([]).trace_dir == tmp_path


async def test_the_documented_way_to_make_a_stored_search_again_works(tmp_path: Path) -> None:
    async with served(trace_dir=tmp_path / "traces") as server:
        await server.solve(strategy="beam", n=4)
    document = (Path(__file__).parents[2] / "docs" / "traces.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", document, re.DOTALL | re.MULTILINE)
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-P", "-c", snippet], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found, stored = re.findall(r"[(\[]([\d, ]+)[)\]]", done.stdout)
    assert found == stored
