"""What all tests share: one pair of real engines for the whole run, one pair of vLLM's servers, hypothesis made
repeatable, and the workers that run them."""

import os
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import settings
from xdist.remote import Producer

from cos.checkpoints import embedded
from cos.engines.launch import Engines, launch
from cos.engines.settings import EngineSettings
from tests.vllm_server import VllmServer
from tests.workers import Scheduling, file_of, sendable, turns

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60, print_blob=False)
settings.load_profile("repeatable")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def real_engines() -> AsyncIterator[Engines]:
    """vLLM with the embedded checkpoints, started once. Its tests need ``pytest.mark.asyncio(loop_scope="session")``
    and ``pytest.mark.real``."""
    engines = await launch(
        EngineSettings(role="policy", model=str(embedded("policy"))),
        EngineSettings(role="prm", model=str(embedded("prm"))),
    )
    try:
        yield engines
    finally:
        await engines.close()


@pytest.fixture(scope="session")
def vllm_servers() -> Iterator[tuple[VllmServer, VllmServer]]:
    """The embedded policy and PRM, each on a ``vllm serve`` of its own, started once. Its tests need
    ``pytest.mark.real``."""
    servers = VllmServer("policy"), VllmServer("prm")
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.wait_until_ready()
        yield servers
    finally:
        for server in servers:
            server.kill()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def remote_engines(vllm_servers: tuple[VllmServer, VllmServer]) -> AsyncIterator[Engines]:
    """Runtimes on these servers. Its tests need what those of ``real_engines`` do."""
    policy, prm = vllm_servers
    engines = await launch(policy.settings, prm.settings)
    try:
        yield engines
    finally:
        await engines.close()


def pytest_configure(config: pytest.Config) -> None:
    """Gives each worker its share of the cores, unless the environment says how many threads compute. Workers with all
    cores for each would wait for one another's threads."""
    if workers := config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """File by file, the longest first."""
    real = [item.nodeid for item in items if item.get_closest_marker("real")]
    turn = turns(real, [item.nodeid for item in items])
    items.sort(key=lambda item: turn[file_of(item.nodeid)])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Which worker runs what."""
    return Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """A worker sends its reports as UTF-8, in which what some tests write and log cannot be said."""
    return sendable((yield))
