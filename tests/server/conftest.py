"""A scripted server for tests that need nothing special."""

from collections.abc import AsyncGenerator

import pytest_asyncio

from tests.server.support import Served, served


@pytest_asyncio.fixture
async def server() -> AsyncGenerator[Served]:
    async with served() as running:
        yield running
