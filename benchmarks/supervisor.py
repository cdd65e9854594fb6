"""A server that is started again whenever it ends with exit code 1, as Docker or systemd would; and its engines."""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cos.benchmarks.server_process import free_port, start, stop, until_ready
from cos.search.errors import CosError

ENGINE_TITLE = "EngineCore"
"""What vLLM's engine processes call themselves."""


@dataclass(frozen=True, slots=True)
class Outage:
    """When a server ended, and when the next one was ready; Unix time, seconds."""

    ended: float
    ready: float


@dataclass(slots=True)
class Supervised:
    """A server that is looked after."""

    port: int
    process: asyncio.subprocess.Process
    outages: list[Outage] = field(default_factory=list[Outage])
    looking_after: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def engines(self) -> list[int]:
        """Process ids of its engines, in the order in which they were started. Errors: CosError when it has none."""
        listing = await asyncio.create_subprocess_exec("ps", "-eo", "pid,ppid,args", stdout=asyncio.subprocess.PIPE)
        rows = [line.split(None, 2) for line in (await listing.communicate())[0].decode().splitlines()[1:]]
        parents = {int(pid): int(parent) for pid, parent, *_ in rows}
        found = [int(pid) for pid, _, *title in rows if title and ENGINE_TITLE in title[0]]
        ours = sorted(pid for pid in found if self._is_ours(pid, parents))
        if not ours:
            raise CosError("the server has no engine process; the scripted engine cannot be stopped or killed")
        return ours

    def _is_ours(self, pid: int, parents: Mapping[int, int]) -> bool:
        while pid > 1 and pid != self.process.pid:
            pid = parents.get(pid, 0)
        return pid == self.process.pid

    async def signal_engine(self, which: int, number: signal.Signals) -> None:
        """Sends a signal to one of its engines, counted from 0."""
        os.kill((await self.engines())[which], number)

    async def restarted(self, times: int) -> None:
        """Waits until it has come back so many times. Errors: CosError when it does not."""
        while len(self.outages) < times:
            if self.looking_after is not None and self.looking_after.done():
                await self.looking_after
            await asyncio.sleep(0.2)


@asynccontextmanager
async def supervised(module: Sequence[str], ready: str, environment: Mapping[str, str]) -> AsyncGenerator[Supervised]:
    """A Python module with its options, run as a server that is started again after exit code 1.

    Errors: CosError with the end of its log when it does not start, or ends otherwise.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="cos-bench-") as folder:
        log = Path(folder) / "server.log"
        server = Supervised(port, await start(module, port, environment, log))

        async def look_after() -> None:
            while (status := await server.process.wait()) == 1:
                ended = time.time()
                server.process = await start(module, port, environment, log)
                await until_ready(f"{server.url}{ready}", server.process, log)
                server.outages.append(Outage(ended, time.time()))
            raise CosError(f"the server ended with status {status}; only 1 (an engine was lost) starts it again")

        try:
            await until_ready(f"{server.url}{ready}", server.process, log)
            server.looking_after = asyncio.create_task(look_after())
            yield server
        finally:
            if server.looking_after is not None:
                server.looking_after.cancel()
                await asyncio.wait([server.looking_after])
            await stop(server.process)
