"""A server in trouble, a real Prometheus, and the rules as they are: the alerts that have to come up do."""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.registry import Collector

from cos.benchmarks.boards import DEPLOY, Window, panels
from cos.benchmarks.prometheus import Prometheus, scraping
from cos.engines.scripted import Script
from cos.engines.story import sureness
from cos.search.errors import EngineError
from cos.search.prompt import Prompt
from tests.deploy.tools import program
from tests.server.support import Served, listening

IN_TROUBLE = {
    "CosCandidatesUnscored",
    "CosEngineRequestsFail",
    "CosEventLoopLags",
    "CosMetricsIncomplete",
    "CosRequestsFail",
    "CosRequestsRefused",
    "CosSearchesCutShort",
    "CosTracesLost",
}


SLOW_MACHINE = {"CosEventLoopLags"}


class _Broken(Collector):
    """A collector that fails at every scrape."""

    def collect(self):  # pyright: ignore[reportMissingParameterType]
        raise OSError("no such file")


def _judge(prompt: Prompt, written: str) -> float:
    return math.nan if "unscored" in prompt.asked else sureness(prompt, written)


@dataclass
class _Luck:
    """Whether engines carry out what is asked of them."""

    is_bad: bool = False

    def fault(self, kind: str, number: int) -> Exception | None:
        return EngineError(f"no luck with {kind} {number}") if self.is_bad else None


async def _trouble(server: Served, traces: Path, luck: _Luck) -> None:
    """All that can go wrong but an engine that is gone or frozen."""
    traces.rename(traces.with_name("gone"))
    traces.touch()
    assert server.prm is not None
    server.prm.registry.register(_Broken())
    full = await asyncio.gather(*(server.solve(n=8) for _ in range(8)))
    assert {reply.status_code for reply in full} >= {200, 429}
    luck.is_bad = True
    for _ in range(4):
        assert (await server.solve(strategy="best_of_n", n=8)).status_code == 502
    luck.is_bad = False
    assert (await server.solve(n=8, question="unscored?")).status_code == 502
    for _ in range(8):
        short = await server.solve(n=4, max_steps=1)
        assert short.json()["finish_reason"] == "max_steps"
    time.sleep(1.2)  # Nothing else of this process gets on meanwhile.


async def _alerts(prometheus: Prometheus, enough: Callable[[set[str]], bool], seconds: float = 10) -> set[str]:
    """The alerts that are pending or firing, once they are ``enough`` or the time is over."""
    end = time.monotonic() + seconds
    while True:
        found = {alert["labels"]["alertname"] for alert in await prometheus.alerts()}
        if enough(found) or time.monotonic() > end:
            return found
        await asyncio.sleep(0.3)


async def test_what_goes_wrong_comes_up_as_an_alert_and_what_does_not_stays_silent(tmp_path: Path) -> None:
    program("prometheus")
    traces = tmp_path / "traces"
    luck = _Luck()
    script = Script(judge=_judge, fault=luck.fault, seconds_per_token=0.0002)
    async with listening(
        script, max_concurrent_searches=2, max_queued_searches=1, engine_patience_s=0.5, trace_dir=traces
    ) as server:
        target = server.http.base_url.netloc.decode()
        async with scraping(target, DEPLOY / "prometheus" / "prometheus.yml", 0.5) as prometheus:
            # A series has to be there before it can be seen to grow.
            assert (await server.solve(n=2)).status_code == 200
            assert (await server.solve(n=1, budget={"tokens": 4000})).status_code == 200
            await asyncio.sleep(1.5)
            # A machine with much else to do is late by itself.
            assert await _alerts(prometheus, SLOW_MACHINE.issuperset) <= SLOW_MACHINE
            await _trouble(server, traces, luck)
            assert await _alerts(prometheus, IN_TROUBLE.issubset) == IN_TROUBLE
            server.policy.freeze()
            assert "CosEngineFrozen" in await _alerts(prometheus, {"CosEngineFrozen"}.issubset)
            frozen = next(each for each in panels(DEPLOY, Window(10, 60)) if "policy: alive" in each.name)
            (up,) = await prometheus.query(frozen.expressions[0])
            assert up.values[-1][1] == 0
            server.policy.thaw()


async def test_a_server_that_is_gone_is_an_alert() -> None:
    program("prometheus")
    async with listening() as server:
        target = server.http.base_url.netloc.decode()
    async with scraping(target, DEPLOY / "prometheus" / "prometheus.yml", 0.5) as prometheus:
        assert await _alerts(prometheus, {"CosServerDown"}.issubset) == {"CosServerDown"}


async def test_without_prometheus_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from cos.search.errors import CosError

    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CosError, match="apt-get install prometheus"):
        async with scraping("127.0.0.1:1", DEPLOY / "prometheus" / "prometheus.yml"):
            pass
