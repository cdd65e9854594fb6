"""On the real engines, too, searches come to the trees that were stored, one search at a time.

Where behaviour is meant to change, make the data anew: ``python -m tests.real.trees write``.
"""

import os

import pytest

from cos.engines.launch import Engines
from tests.real.trees import changed, elsewhere, load, some

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

LEDGERS = os.environ.get("TREES_LEDGERS", "0:1")
"""Which of the stored ledgers are searched: one, by every strategy. All of them are 0:20, which takes minutes."""


async def test_every_strategy_comes_to_its_stored_trees(real_engines: Engines) -> None:
    data = load()
    if reason := elsewhere(data):
        pytest.skip(reason)
    assert await changed(real_engines, some(LEDGERS), data) == []
