"""vLLM's own server as a process of the tests: what a user starts on another machine."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cos.checkpoints import embedded
from cos.engines.settings import EngineSettings, Role


@dataclass
class VllmServer:
    """A process that serves one embedded model."""

    role: Role
    port: int = 0
    process: "subprocess.Popen[bytes] | None" = None
    log: Path | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> EngineSettings:
        """How a runtime on it is started."""
        return EngineSettings(role=self.role, model=str(embedded(self.role)), runtime="remote", url=self.url)

    def start(self) -> None:
        """Begins to start it, on the port that it had before."""
        from cos.benchmarks.remote import environment, serving

        if not self.port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = int(probe.getsockname()[1])
        command = [sys.executable, "-m", *serving(self.role), "--host", "127.0.0.1", "--port", str(self.port)]
        handle, name = tempfile.mkstemp(prefix=f"vllm-{self.role}-", suffix=".log")
        self.log = Path(name)
        with os.fdopen(handle, "wb") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **environment()},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self, seconds: float = 300) -> None:
        """Errors: AssertionError with what it has printed when it ends or the time runs out."""
        assert self.process is not None
        assert self.log is not None
        end = time.monotonic() + seconds
        while not self._is_ready():
            printed = self.log.read_text(errors="replace")[-4000:]
            assert self.process.poll() is None, f"vllm serve ended:\n{printed}"
            assert time.monotonic() < end, f"vllm serve is not ready:\n{printed}"
            time.sleep(0.2)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as response:
                return response.status == 200
        except (OSError, urllib.error.URLError):
            return False

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0] == name)

    def kill(self) -> None:
        """Ends all its processes at once."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        if self.log is not None:
            self.log.unlink(missing_ok=True)
