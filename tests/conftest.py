"""What all tests share: one pair of real engines for the whole run, and hypothesis made repeatable."""

from collections.abc import AsyncIterator

import pytest_asyncio
from hypothesis import settings

from cos.checkpoints import embedded
from cos.engines.launch import Engines, launch
from cos.engines.settings import EngineSettings

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
