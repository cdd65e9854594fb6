"""Servers in subprocesses: what is left when they are stopped."""

import asyncio
import sys
from pathlib import Path

from cos.benchmarks.server_process import stop

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
time.sleep(600)
"""


async def test_what_a_server_has_started_ends_with_it() -> None:
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", STUBBORN, stdout=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    engine = int(await server.stdout.readline())
    await stop(server, 0.1)
    assert server.returncode == -9
    for _ in range(200):
        if not _runs(engine):
            break
        await asyncio.sleep(0.05)
    assert not _runs(engine)


def _runs(pid: int) -> bool:
    """Whether a process is neither gone nor a zombie that nobody has asked about."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
