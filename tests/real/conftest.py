"""One real server, started by the README's first command, for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.real.server_process import ROOT, ServerProcess, fenced_blocks, start


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    running = start(fenced_blocks(ROOT / "README.md", "sh")[0].strip())
    try:
        running.wait_until_ready(300)
        yield running
    finally:
        running.stop()
