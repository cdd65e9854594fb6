"""Servers in subprocesses, for as long as they are measured."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from cos.search.errors import CosError

START_S = 600.0
"""How long two engines may take to start."""
STOP_S = 60.0
STOP_STARTING_S = 5.0
"""The same, for one that has nothing to end yet. Engines that are being loaded cannot be interrupted."""
POLL_S = 0.25


@asynccontextmanager
async def own_server(policy: str, prm: str, *options: str) -> AsyncGenerator[str]:
    """The URL of a server of our own that has just started, with default settings but for ``options``. Errors: as
    `served`."""
    command = ("cos.server.cli", "--policy", policy, "--prm", prm, *options)
    async with served(command, "/ready", {}) as url:
        yield url


@asynccontextmanager
async def served(module: Sequence[str], ready: str, environment: Mapping[str, str]) -> AsyncGenerator[str]:
    """The URL of a Python module with its options, run as a server: it has answered at the path ``ready``, and is
    stopped at the end.

    Errors: CosError with the end of its log when it does not start.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="cos-bench-") as folder:
        log = Path(folder) / "server.log"
        process = await start(module, port, environment, log)
        patience_s = STOP_STARTING_S
        try:
            await until_ready(f"{url}{ready}", process, log)
            patience_s = STOP_S
            yield url
        finally:
            await stop(process, patience_s)


async def start(
    module: Sequence[str], port: int, environment: Mapping[str, str], log: Path
) -> asyncio.subprocess.Process:
    """A Python module with its options, begun as a server on this machine; ``log`` grows by what it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COS_")}
    with log.open("ab") as sink:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *module, "--host", "127.0.0.1", "--port", str(port)),
            stdout=sink,
            stderr=sink,
            env={**kept, **environment},
        )


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until_ready(url: str, process: asyncio.subprocess.Process, log: Path, what: str = "the server") -> None:
    """Waits until a server answers at a URL. Errors: CosError with the end of its log when it ends or never does."""
    async with httpx.AsyncClient(timeout=5.0) as client:
        for _ in range(int(START_S / POLL_S)):
            if process.returncode is not None:
                break
            try:
                if (await client.get(url)).is_success:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(POLL_S)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    why = "did not start" if process.returncode is None else f"ended with status {process.returncode}"
    raise CosError(f"{what} {why}; the end of its log:\n{tail}")


async def stop(process: asyncio.subprocess.Process, patience_s: float = STOP_S) -> None:
    """Asks it to stop, and insists when it does not: with all that it has started, as engines would hold a GPU."""
    if process.returncode is not None:
        return
    family = _family(process.pid)
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), patience_s)
    except TimeoutError:
        process.kill()
    for left in family[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(left, signal.SIGKILL)
    await process.wait()


def _family(pid: int) -> list[int]:
    """A process, those that it has started, and those that they have, as far as Linux tells."""
    found = [pid]
    for one in found:
        for told in Path(f"/proc/{one}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, told.read_text("ascii").split())
    return found
