"""The command as a process: how it starts, how it ends, and what it says."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

import httpx
import pytest

from tests.server.support import body

COMMAND = (sys.executable, "-m", "cos.server.cli")


@contextmanager
def running(*arguments: str) -> Generator[tuple["subprocess.Popen[str]", str, list[str]]]:
    """A server that is ready, its address, and what it printed."""
    process = subprocess.Popen(
        [*COMMAND, "--policy", "scripted", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if ready := re.match(r"cos-serve is ready: (http://127\.0\.0\.1:\d+) ", line):
                yield process, ready[1], lines
                return
        raise AssertionError("the server ended: " + "\n".join(lines))
    finally:
        process.kill()
        process.wait()


def ended(*arguments: str) -> tuple[int, str, float]:
    """Exit code, output and seconds of a command that does not serve."""
    started = time.perf_counter()
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout + done.stderr, time.perf_counter() - started


def test_a_start_shows_a_solved_example_and_ends_with_the_address() -> None:
    with running() as (process, url, lines):
        assert lines[-1] == f"cos-serve is ready: {url} (API: /solve and /v1, docs: /docs)"
        assert lines[0].startswith("Q: ")
        assert sum(line.startswith("cos-serve is ready") for line in lines) == 1
        assert any("answer" in line for line in lines)
        assert httpx.get(f"{url}/ready").status_code == 200
        assert httpx.post(f"{url}/solve", json=body()).json()["complete"] is True
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/ready")


def test_an_interrupt_ends_it_too() -> None:
    with running("--prm", "none") as (process, _, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.stdout is not None
        assert "Traceback" not in process.stdout.read()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--policy", "./nope", "--prm", "none"), "--policy ./nope: the folder does not exist"),
        (("--policy", "scripted", "--prm", "./nope"), "--prm ./nope: the folder does not exist"),
        (("--policy", "./nope"), "--policy ./nope needs a --prm"),
    ],
)
def test_a_model_that_is_not_there_is_told_at_once(arguments: tuple[str, ...], told: str) -> None:
    code, output, seconds = ended(*arguments, "--port", "0")
    assert code == 2
    assert told in output
    assert "Traceback" not in output
    assert seconds < 15


def test_a_taken_port_is_told_before_any_model_is_looked_at() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, output, _ = ended("--policy", "./nope", "--prm", "none", "--port", port)
    assert code == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in output
    assert "nope" not in output


def test_version_and_help_load_no_engine_and_no_web_framework() -> None:
    code, output, _ = ended("--version")
    assert (code, output.split()[0]) == (0, "cos-serve")
    probe = (
        "import sys, cos.server.cli; print([m for m in ('torch', 'vllm', 'fastapi', 'uvicorn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, env={**os.environ})
    assert json.loads(done.stdout.replace("'", '"')) == []
