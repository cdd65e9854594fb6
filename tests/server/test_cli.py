"""The command as a process: how it starts, how it ends, and what it says."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.server.support import body

COMMAND = (sys.executable, "-m", "cos.server.cli")


@contextmanager
def running(*arguments: str, code: str | None = None) -> Generator[tuple["subprocess.Popen[str]", str, list[str]]]:
    """A server that is ready, its address, and what it printed."""
    served = [*COMMAND, "--policy", "scripted", "--port", "0", *arguments]
    with subprocess.Popen(
        served if code is None else [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process, *_until_ready(process)
        finally:
            process.kill()


def _until_ready(process: "subprocess.Popen[str]") -> tuple[str, list[str]]:
    """The server's address, and what it printed up to there."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if ready := re.match(r"cos-serve is ready: (http://127\.0\.0\.1:\d+) ", line):
            return ready[1], lines
    raise AssertionError("the server ended: " + "\n".join(lines))


def ended(*arguments: str) -> tuple[int, str]:
    """Exit code and output of a command that does not serve."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_a_start_shows_a_solved_example_and_ends_with_the_address() -> None:
    with running() as (process, url, lines):
        assert lines[-1] == f"cos-serve is ready: {url} (API: /solve and /v1, docs: /docs)"
        assert "policy scripted, PRM scripted, strategy auto" in lines[0]
        assert lines[1].startswith("Q: ")
        assert sum(line.startswith("cos-serve is ready") for line in lines) == 1
        assert any("answer" in line for line in lines)
        assert httpx.get(f"{url}/ready").status_code == 200
        assert httpx.post(f"{url}/solve", json=body()).json()["complete"] is True
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/ready")


SLOW_SERVER = """
import asyncio
from rich.console import Console
from cos.engines.launch import Engines
from cos.engines.scripted import Script, ScriptedEngine
from cos.server.process import run
from cos.server.settings import Settings

async def start(settings):
    print("loading", flush=True)
    await asyncio.sleep({start_s})
    script = Script(seconds_per_token=0.005)
    return Engines(ScriptedEngine(script), ScriptedEngine(script))

raise SystemExit(run(Settings(policy="scripted", port=0, n=1), Console(), start))
"""


def until_searching(url: str) -> None:
    """Waits until a search is under way."""
    end = time.monotonic() + 30
    while "cos_requests_in_progress 1.0" not in httpx.get(f"{url}/metrics").text:
        assert time.monotonic() < end, "the search did not begin"


def test_a_stop_signal_lets_a_running_search_end() -> None:
    with running(code=SLOW_SERVER.format(start_s=0)) as (process, url, _), ThreadPoolExecutor() as pool:
        searching = pool.submit(httpx.post, f"{url}/solve", json=body(n=1))
        until_searching(url)
        process.send_signal(signal.SIGTERM)
        while (ready := httpx.get(f"{url}/ready").status_code) == 200:
            time.sleep(0.01)
        assert ready == 503
        assert httpx.post(f"{url}/solve", json=body()).status_code == 503
        assert searching.result().json()["complete"] is True
        assert process.wait(60) == 0


def test_a_second_stop_signal_ends_a_running_search() -> None:
    with running(code=SLOW_SERVER.format(start_s=0)) as (process, url, _), ThreadPoolExecutor() as pool:
        searching = pool.submit(httpx.post, f"{url}/solve", json=body(n=1))
        until_searching(url)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        assert searching.result().json()["error"]["code"] == "shutting_down"
        assert process.wait(60) == 0


LOSING_SERVER = """
import asyncio
from rich.console import Console
from cos.engines.launch import Engines
from cos.engines.scripted import Script, ScriptedEngine
from cos.server.process import run
from cos.server.settings import Settings

async def start(settings):
    policy, prm = ScriptedEngine(Script(delay=lambda kind, number: 0.0 if number < 6 else 1.5)), ScriptedEngine()
    asyncio.get_running_loop().call_later(1.0, policy.kill)
    return Engines(policy, prm)

raise SystemExit(run(Settings(policy="scripted", port=0, n=1, strategy="greedy"), Console(), start))
"""


def test_a_lost_engine_ends_the_process_with_code_1_once_what_ran_was_answered() -> None:
    with running(code=LOSING_SERVER) as (process, url, _), ThreadPoolExecutor() as pool:
        searching = pool.submit(httpx.post, f"{url}/solve", json=body(n=None, strategy="greedy"))
        response = searching.result()
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_dead")
        assert process.wait(60) == 1
        assert process.stdout is not None
        printed = process.stdout.read()
        assert "an engine is lost" in printed
        assert "Traceback" not in printed


FAILING_SERVER = """
import math
from rich.console import Console
from cos.engines.launch import Engines
from cos.engines.scripted import Script, ScriptedEngine
from cos.search.errors import EngineError
from cos.server.process import run
from cos.server.settings import Settings

async def start(settings):
    return Engines(ScriptedEngine(Script({policy})), ScriptedEngine(Script({prm})))

raise SystemExit(run(Settings(policy="scripted", port=0), Console(), start))
"""


@pytest.mark.parametrize(
    ("policy", "prm", "told"),
    [
        ("", "judge=lambda *_: math.nan", "cos-serve: --prm scripted: 10 of 10 scores of a known chain are missing"),
        ("fault=lambda *_: EngineError('no')", "", "cos-serve: --policy scripted cannot solve anything"),
    ],
)
def test_models_that_cannot_be_served_with_end_the_start_with_a_sentence(policy: str, prm: str, told: str) -> None:
    code = FAILING_SERVER.format(policy=policy, prm=prm)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_stop_signal_while_it_starts_ends_it() -> None:
    command = [sys.executable, "-c", SLOW_SERVER.format(start_s=60)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "starting the engines" in process.stdout.readline()
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_an_interrupt_ends_it_too() -> None:
    with running("--prm", "none") as (process, _, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stdout is not None
        assert "Traceback" not in process.stdout.read()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--policy", "./nope", "--prm", "none"), "--policy ./nope: the folder does not exist"),
        (("--policy", "scripted", "--prm", "./nope"), "--prm ./nope: the folder does not exist"),
    ],
)
def test_a_model_that_is_not_there_is_told_before_any_engine_starts(arguments: tuple[str, ...], told: str) -> None:
    code, output = ended(*arguments, "--port", "0")
    assert code == 2
    assert told in output
    assert "Traceback" not in output
    assert "vllm" not in output.casefold(), "it logs as soon as it is imported"


def test_a_taken_port_is_told_before_any_model_is_looked_at() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, output = ended("--policy", "./nope", "--prm", "none", "--port", port)
    assert code == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in output
    assert "nope" not in output


def test_flags_are_read_without_loading_an_engine_or_a_web_framework() -> None:
    probe = (
        "import sys, cos.server.cli; print([m for m in ('torch', 'vllm', 'fastapi', 'uvicorn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
