"""Every engine that must keep the contract."""

from collections.abc import Iterator

import pytest

from cos.engines.launch import Engines
from cos.engines.scripted import Script, ScriptedEngine


@pytest.fixture(params=["scripted", pytest.param("vllm", marks=pytest.mark.real)])
def engines(request: pytest.FixtureRequest) -> Iterator[Engines]:
    """A policy and a PRM, both ready."""
    if request.param == "vllm":
        yield request.getfixturevalue("real_engines")
    else:
        slow = Script(seconds_per_token=2e-5, seconds_per_read=1e-3)
        yield Engines(ScriptedEngine(slow), ScriptedEngine(slow))
