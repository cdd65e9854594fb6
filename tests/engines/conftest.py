"""Every engine that must keep the contract."""

from collections.abc import Iterator

import pytest

from cos.engines.launch import Engines
from cos.engines.scripted import Script, ScriptedEngine

REAL = {"vllm": "real_engines", "remote": "remote_engines"}


@pytest.fixture(params=["scripted", *(pytest.param(name, marks=pytest.mark.real) for name in REAL)])
def engines(request: pytest.FixtureRequest) -> Iterator[Engines]:
    """A policy and a PRM, both ready."""
    if request.param in REAL:
        yield request.getfixturevalue(REAL[request.param])
    else:
        slow = Script(seconds_per_token=2e-5, seconds_per_read=1e-3)
        yield Engines(ScriptedEngine(slow), ScriptedEngine(slow))
