"""A real engine process that is stopped, goes on, and is killed: what the watch makes of it."""

import asyncio
import os
import signal
import subprocess

import pytest

from cos.checkpoints import embedded
from cos.engines.launch import launch
from cos.engines.ports import HasMetrics
from cos.engines.settings import EngineSettings
from cos.server.exposition import Exposition, Source
from cos.server.watch import Watch
from tests.server.support import until

pytestmark = pytest.mark.real


def engine_processes() -> set[int]:
    """Every engine process on this machine that is ours."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    parents = {int(pid): int(parent) for pid, parent, _ in rows}

    def is_ours(pid: int) -> bool:
        while pid > 1 and pid != os.getpid():
            pid = parents.get(pid, 0)
        return pid == os.getpid()

    return {int(pid) for pid, _, command in rows if "EngineCore" in command and is_ours(int(pid))}


async def test_a_stopped_engine_process_is_told_and_a_killed_one_is_lost() -> None:
    others = engine_processes()
    engines = await launch(EngineSettings(role="policy", model=str(embedded("policy"))), None)
    watch = Watch(engines, patience_s=15)
    watching = asyncio.create_task(watch.run())
    try:
        (process,) = engine_processes() - others
        await asyncio.sleep(6)
        assert watch.is_well
        assert engines.policy.steps > 0, "an idle engine is given probes"
        os.kill(process, signal.SIGSTOP)
        await until(lambda: not watch.is_well, 60)
        assert isinstance(engines.policy, HasMetrics)
        scrape, _ = Exposition([Source("policy", engines.policy.registry)], lambda source: None).render("")
        assert b"vllm:num_requests_running{" in scrape, "a scrape asks the process nothing"
        os.kill(process, signal.SIGCONT)
        await until(lambda: watch.is_well, 60)
        os.kill(process, signal.SIGKILL)
        await until(watch.lost.is_set, 60)
        await watching
    finally:
        await engines.close()
