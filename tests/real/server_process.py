"""Servers as processes of the tests, on ports of their own: the README's first command, and any other."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]


def fenced_blocks(document: Path, language: str) -> list[str]:
    """The contents of a document's fenced blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class ServerProcess:
    """A server under test. ``lines`` is what it has printed so far."""

    port: int
    process: "subprocess.Popen[str]"
    started: float
    lines: list[str] = field(default_factory=list[str])
    ready_line: str = "cos-serve is ready:"
    """How the line begins that says so."""
    ready_after_s: float | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def follow(self) -> None:
        """Collects output until the process ends."""
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line.rstrip("\n"))
                if line.startswith(self.ready_line):
                    self.ready_after_s = time.monotonic() - self.started

    def wait_until_ready(self, seconds: float) -> None:
        """Errors: AssertionError with the output when it ends or the time runs out."""
        end = time.monotonic() + seconds
        while self.ready_after_s is None:
            assert self.process.poll() is None, "the server ended:\n" + "\n".join(self.lines)
            assert time.monotonic() < end, "the server is not ready:\n" + "\n".join(self.lines)
            time.sleep(0.2)

    def stop(self) -> int:
        """Interrupts it as Ctrl-C would and returns the exit code."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise


def newcomers_environment() -> dict[str, str]:
    """This environment without the virtual environment that the tests run in. ``uv run`` finds that, and may not sync
    it: it would put vLLM in anew while other tests import it (docs/decisions.md, 2026-11-29)."""
    own = str(Path(sys.executable).parent)
    kept = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    return {
        **kept,
        "UV_NO_SYNC": "1",
        "PATH": os.pathsep.join(part for part in kept["PATH"].split(os.pathsep) if part != own),
    }


def start(command: str, ready_line: str = ServerProcess.ready_line) -> ServerProcess:
    """Starts a shell command that serves; the port is given by environment, as COS_PORT."""
    port = free_port()
    process = subprocess.Popen(
        ["bash", "-c", command],
        cwd=ROOT,
        env={**newcomers_environment(), "COS_PORT": str(port), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    server = ServerProcess(port, process, time.monotonic(), ready_line=ready_line)
    threading.Thread(target=server.follow, daemon=True).start()
    return server
