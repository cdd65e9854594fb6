"""What the server logs: every line whole and with its request, one for each request, and nothing that users said."""

import asyncio
import gc
import io
import json
import logging
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from cos.engines.scripted import Script
from cos.engines.story import story
from cos.search.errors import EngineError
from cos.search.prompt import Prompt
from cos.server.logs import ENGINES, JsonLines, TextLines, about, log_unheard
from cos.server.planner import Planner
from tests.server.support import body, data_uri, listening, picture_bytes, served, until
from tests.server.test_broken_off import chat_body
from tests.server.test_cli import COMMAND, ended

CANARY = "Kanarienvogel"
KEY = "sk-geheimer-schluessel"


@dataclass(frozen=True)
class Log:
    """What was logged meanwhile, in both forms."""

    text: io.StringIO
    json: io.StringIO

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.json.getvalue().splitlines()]

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Access lines."""
        return [line for line in self.lines if line["logger"] == "cos.server.access"]

    @property
    def everything(self) -> str:
        return self.text.getvalue() + self.json.getvalue()


@contextmanager
def logging_to(log: Log, level: int = logging.DEBUG, *, messages: bool = False) -> Generator[None]:
    handlers = [logging.StreamHandler(log.text), logging.StreamHandler(log.json)]
    handlers[0].setFormatter(TextLines(messages=messages))
    handlers[1].setFormatter(JsonLines(messages=messages))
    for handler in handlers:
        # The tests' own client.
        handler.addFilter(lambda record: record.name.partition(".")[0] not in ("httpx", "httpcore"))
    root, before = logging.getLogger(), logging.getLogger().level
    root.handlers += handlers
    root.setLevel(level)
    try:
        yield
    finally:
        root.setLevel(before)
        root.handlers = [handler for handler in root.handlers if handler not in handlers]


@pytest.fixture
def log() -> Generator[Log]:
    """Everything that is logged, debugging included."""
    found = Log(io.StringIO(), io.StringIO())
    with logging_to(found):
        yield found


def telling(prompt: Prompt, written: str, rng: random.Random) -> str:
    """A writer that logs, as code deep in an engine would."""
    logging.getLogger("cos.engines.somewhere").warning("drawing")
    return story(prompt, written, rng)


async def test_every_line_has_time_level_logger_and_message(log: Log) -> None:
    async with served() as server:
        await server.solve()
    assert log.lines
    for line in log.lines:
        assert datetime.fromisoformat(line["time"]).utcoffset() is not None
        assert line["level"] in ("debug", "info", "warning", "error")
        assert line["logger"]
        assert line["message"]


async def test_what_the_tasks_of_a_search_log_has_the_id_of_their_request(log: Log) -> None:
    async with served(Script(writer=telling, seconds_per_token=0.0001)) as server:
        ids = ["one", "two", "three"]
        asked = [server.http.post("/solve", json=body(n=4), headers={"X-Request-Id": name}) for name in ids]
        stream = server.http.post("/solve", json=body(stream=True), headers={"X-Request-Id": "four"})
        await asyncio.gather(*asked, stream)
    drawn = [line["request_id"] for line in log.lines if line["logger"] == "cos.engines.somewhere"]
    assert set(drawn) == {*ids, "four"}
    assert "WARNING cos.engines.somewhere: drawing request_id=two" in log.text.getvalue()


async def test_what_the_thread_that_stores_traces_logs_has_the_id_of_its_request(log: Log, tmp_path: Path) -> None:
    async with served(trace_dir=tmp_path) as server:
        (tmp_path / "images").rmdir()
        (tmp_path / "images").write_text("in the way")
        await server.http.post("/solve", json=body(), headers={"X-Request-Id": "mine"})
    (line,) = [line for line in log.lines if line["logger"] == "cos.server.traces"]
    assert (line["level"], line["request_id"]) == ("error", "mine")


async def test_what_is_logged_beside_requests_has_no_id(log: Log) -> None:
    async with served() as server:
        await server.solve()
        logging.getLogger("cos").info("between")
    assert [line for line in log.lines if line["message"] == "between" and "request_id" not in line]


async def test_every_request_has_one_line(log: Log) -> None:
    async with served(api_key=(KEY,), max_n=8) as server:
        allowed = {"Authorization": f"Bearer {KEY}"}
        path, chat = chat_body()
        asked: list[tuple[str, str, int, str | None]] = [
            ("POST", "/solve", 401, "rejected"),
            ("POST", "/solve", 200, "ok"),
            ("POST", "/v1/solve", 422, "rejected"),
            ("POST", path, 200, "ok"),
            ("GET", "/v1/models", 200, None),
            ("GET", "/v1/nothing", 404, None),
            ("DELETE", "/solve", 405, None),
        ]
        await server.http.post("/solve", json=body())
        first = await server.http.post("/solve", json=body(), headers=allowed)
        await server.http.post("/v1/solve", json=body(n=99), headers=allowed)
        await server.http.post(path, json=chat, headers=allowed)
        await server.http.get("/v1/models", headers=allowed)
        await server.http.get("/v1/nothing", headers=allowed)
        await server.http.delete("/solve", headers=allowed)
        seen = [(line["method"], line["path"], line["status"], line.get("outcome")) for line in log.requests]
        assert seen == asked
        solved = log.requests[1]
        assert solved["request_id"] == first.headers["X-Request-Id"]
        assert solved["strategy"] == first.json()["strategy"]
        assert solved["tokens"] == first.json()["usage"]["tokens_generated"]
        assert 0 < solved["seconds"] < 20
        assert all(line["level"] == "info" for line in log.requests)


async def test_a_search_that_is_cancelled_or_fails_has_one_line_too(log: Log) -> None:
    def fault(kind: str, number: int) -> Exception | None:
        return EngineError("out of memory") if kind == "draw" and number > 5 else None

    async with listening(Script(seconds_per_token=0.01)) as server:
        with pytest.raises(httpx.TimeoutException):
            await server.http.post("/solve", json=body(), timeout=0.2)
        await until(lambda: len(log.requests) == 1)
    async with served(Script(fault=fault)) as server:
        assert (await server.solve()).status_code == 502
    await until(lambda: len(log.requests) == 2)
    cancelled, failed = log.requests
    assert (cancelled["outcome"], cancelled["status"]) == ("cancelled", 499)
    assert (failed["outcome"], failed["status"]) == ("failed", 502)
    assert failed["tokens"] > 0
    (told,) = [line for line in log.lines if line["level"] == "error"]
    assert told["message"].startswith("engine_error: ")
    assert told["request_id"] == failed["request_id"]


async def test_a_request_that_is_refused_before_it_is_read_tells_its_error_too(log: Log) -> None:
    async with served(api_key=(KEY,), max_body_mib=0.1) as server:
        allowed = {"Authorization": f"Bearer {KEY}"}
        replies = [
            await server.http.post("/solve", json=body()),
            await server.http.post("/solve", json=body(), headers={**allowed, "Origin": "https://foreign.example"}),
            await server.http.post("/solve", content=b"x" * 200_000, headers=allowed),
            await server.http.post("/solve", content=b"x", headers=allowed),
        ]
    assert [reply.status_code for reply in replies] == [401, 403, 413, 415]
    assert [line["error_code"] for line in log.requests] == [reply.json()["error"]["code"] for reply in replies]


async def test_an_error_that_nobody_foresaw_tells_its_code_too(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as server:
        monkeypatch.setattr(Planner, "plan", stumble)
        assert (await server.solve()).status_code == 500
    assert log.requests[0]["error_code"] == "internal_error"


async def test_probes_that_are_well_are_told_at_level_debug_only(log: Log) -> None:
    async with served() as server:
        for path in ("/health", "/ready", "/ping", "/metrics"):
            await server.http.get(path)
        assert [line["level"] for line in log.requests] == ["debug"] * 4
        server.policy.kill()
        await server.http.get("/health")
    assert (log.requests[-1]["status"], log.requests[-1]["level"]) == (503, "info")


def canaries(**fields: Any) -> dict[str, Any]:
    return body(**{"question": f"What does the {CANARY} sing?", "n": 4, **fields})


def sing(prompt: Prompt, written: str, rng: random.Random) -> str:
    del prompt, written, rng
    return f"Answer:\n<|answer_start|>sqrt({CANARY})<|answer_end|>"


def stumble(prompt: Prompt, written: str, rng: random.Random) -> str:
    del rng
    raise ValueError(f"cannot go on from {prompt.asked} and {written}")


async def ask_in_every_way(script: Script, **values: Any) -> None:
    """Questions that are answered, refused and broken."""
    async with served(script, api_key=(KEY,), **values) as server:
        headers = {"Authorization": f"Bearer {KEY}", "X-Custom": CANARY}
        path, chat = chat_body()
        chat["messages"] = [{"role": "user", "content": f"Where is the {CANARY}?"}]
        posts: list[tuple[str, dict[str, Any]]] = [
            ("/solve", canaries()),
            ("/solve", canaries(stream=True)),
            ("/solve", canaries(strategy="self_consistency", choices=[CANARY, "crow"])),
            ("/solve", canaries(image=data_uri(picture_bytes()[:-20] + CANARY.encode()))),
            ("/solve", canaries(n=CANARY)),
            ("/solve", canaries(**{CANARY: 1})),
            (path, chat),
            (path, {**chat, "model": CANARY}),
        ]
        for where, what in posts:
            await server.http.post(f"{where}?q={CANARY}", json=what, headers=headers)
        await server.http.post("/solve", content=f"{{{CANARY}", headers=headers)
        await server.http.post("/solve", data={"question": CANARY}, files={"image": CANARY.encode()}, headers=headers)
        await server.http.post("/solve", json=canaries(), headers={"Authorization": f"Bearer {KEY}x"})


@pytest.mark.parametrize("writer", [story, sing, stumble])
async def test_no_line_holds_what_was_asked_or_answered_or_a_key(writer: Any, log: Log, tmp_path: Path) -> None:
    # The test framework keeps every record that is logged.
    await ask_in_every_way(Script(writer=writer), trace_dir=tmp_path, image_required=False)
    assert len(log.requests) == 11
    assert CANARY not in log.everything
    assert KEY not in log.everything
    if writer is stumble:
        told = [line for line in log.lines if line["level"] == "error"]
        assert {line["message"] for line in told} == {"internal_error: ValueError"}
        assert all("in stumble" in line["error"] and "builtins.ValueError" in line["error"] for line in told)


async def test_questions_are_logged_where_that_is_asked_for_and_nothing_else(log: Log) -> None:
    await ask_in_every_way(Script(writer=sing), log_questions=True, image_required=False)
    with_canary = [line for line in log.lines if CANARY in json.dumps(line)]
    assert with_canary
    for line in with_canary:
        assert line["logger"] == "cos.server.access"
        assert [name for name, value in line.items() if CANARY in str(value)] == ["question"]
    assert KEY not in log.everything


def test_the_message_of_an_unforeseen_error_is_told_where_questions_are() -> None:
    log = Log(io.StringIO(), io.StringIO())
    with logging_to(log, messages=True):
        try:
            raise ExceptionGroup("several", [KeyError("one")])
        except ExceptionGroup:
            logging.getLogger("cos").exception("failed")
    assert "several" in log.lines[0]["error"]
    assert "KeyError: 'one'" in log.lines[0]["error"]


async def test_an_error_that_nobody_waited_for_is_told_without_what_it_says(log: Log) -> None:
    async def fail() -> None:
        raise ValueError(CANARY)

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_unheard)
    task = loop.create_task(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    gc.collect()
    (line,) = [line for line in log.lines if line["logger"] == "asyncio" and line["level"] == "error"]
    assert line["message"] == "Task exception was never retrieved"
    assert "builtins.ValueError" in line["error"]
    assert CANARY not in log.everything


ODD = st.text(st.characters(codec=None), max_size=40) | st.sampled_from(
    ["a\nb", "a\r\nb", "\x1b[2J", "\x00", "\ud800", "\u2028\u2029\x85", "\u202e", '"\\', "%s %(path)s"]
)


@given(message=ODD, value=ODD)
@examples(max_examples=60)
def test_no_text_breaks_a_line_in_two(message: str, value: str) -> None:
    log = written(message, value)
    assert (log.lines[0]["message"], log.lines[0]["value"], log.lines[0]["request_id"]) == (message, value, "mine")


@pytest.mark.parametrize("char", ["x", "\n", "\x00", "\ud800", "\U0001f600"])
def test_a_long_text_is_cut_and_its_line_says_so(char: str) -> None:
    log = written(char * 100_000, char * 100_000)
    assert log.lines[0]["message"] == char * 4_000 + "... (96000 more characters)"
    assert max(map(len, log.everything.splitlines())) < 200_000


def written(message: str, value: str) -> Log:
    """The log of two lines that hold such texts; each is one line in both forms."""
    log = Log(io.StringIO(), io.StringIO())
    with logging_to(log), about(request_id="mine"):
        logging.getLogger("cos").warning("%(told)s", {"told": message, "value": value})
        logging.getLogger("cos").warning("said %s", message)
    for lines in (log.text.getvalue(), log.json.getvalue()):
        assert len(lines.splitlines()) == lines.count("\n") == 2
        assert lines.replace("\n", "").isprintable()
        lines.encode()
    return log


async def test_odd_paths_and_questions_keep_to_their_line(log: Log) -> None:
    async with served(log_questions=True) as server:
        await server.http.get("/v1/models/a%0A%1B%5B2J%E2%80%A8%00" + "x" * 5_000)
        await server.solve(question="first\nsecond\x1b[31m\u2028" + "long " * 1_000)
    assert len(log.text.getvalue().splitlines()) == len(log.lines) == len(log.json.getvalue().splitlines())
    assert [line["status"] for line in log.requests] == [404, 200]
    assert log.requests[1]["question"].startswith("first\nsecond\x1b[31m")


def test_with_json_all_that_a_server_tells_is_json() -> None:
    command = [*COMMAND, "--policy", "scripted", "--port", "0", "--log-format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            lines: list[dict[str, Any]] = []
            for line in process.stdout:
                lines.append(json.loads(line))
                if lines[-1]["message"].startswith("cos-serve is ready: "):
                    break
            url = lines[-1]["message"].split()[3]
            assert httpx.post(f"{url}/solve", json=body()).json()["complete"] is True
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            lines += map(json.loads, process.stdout)
        finally:
            process.kill()
    assert {line["level"] for line in lines} == {"info"}
    (access,) = [line for line in lines if line["logger"] == "cos.server.access"]
    assert (access["path"], access["status"], access["outcome"]) == ("/solve", 200, "ok")


def test_with_json_a_start_that_fails_is_told_as_json() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, output = ended("--policy", "scripted", "--port", port, "--log-format", "json")
    assert code == 2
    (line,) = map(json.loads, output.splitlines())
    assert line["level"] == "error"
    assert "another --port" in line["message"]


def test_an_api_key_that_cannot_be_read_is_not_shown() -> None:
    code, output = ended("--policy", "scripted", "--api-key", f'["{KEY}')
    assert code == 2
    assert "--api-key" in output
    assert KEY not in output


def test_vllm_logs_json_with_the_process_it_speaks_from() -> None:
    code = f"""
import json, logging, logging.config, multiprocessing
logging.config.dictConfig(json.load(open({str(ENGINES)!r})))
multiprocessing.current_process().name = "EngineCore"
logging.getLogger("vllm.v1.engine").info("not told")
logging.getLogger("vllm.v1.engine").error("first\\nsecond")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["logger"], line["message"], line["process"]) == ("vllm.v1.engine", "first\nsecond", "EngineCore")
    assert line["pid"] > 0
