"""A scripted vLLM in a process of its own, which can be killed: ``python -m tests.engines.stub_process PORT``."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from cos.engines.scripted import Script
from tests.engines.stub_server import StubServer
from tests.engines.stub_vllm import ScriptedVllm

ROOT = Path(__file__).parents[2]
SLOWLY = Script(seconds_per_token=0.001, seconds_per_read=0.01)
"""So that there is time to kill it within a search."""


class StubProcess:
    """Such a process, on the port that it had before."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Returns once it listens."""
        command = [sys.executable, "-m", __name__, str(self.port)]
        self.process = subprocess.Popen(command, cwd=ROOT, env=os.environ)
        async with asyncio.timeout(60):
            while True:
                assert self.process.poll() is None
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return

    def kill(self) -> None:
        """As ``kill -9`` does."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)


async def serve(port: int) -> None:
    """Answers until it is killed."""
    await StubServer(ScriptedVllm(SLOWLY), port=port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
