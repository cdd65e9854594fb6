"""A real Prometheus scrapes the real server under load: whatever the dashboards and rules ask has an answer."""

import asyncio
import re
import time

import httpx
import pytest

from cos.benchmarks.boards import DEPLOY, MAY_BE_EMPTY, Coverage, Window, panels, rules
from cos.benchmarks.prometheus import scraping
from cos.benchmarks.troubles import load, mixed, troubles
from cos.checkpoints import heldout
from tests.deploy.tools import program
from tests.real.server_process import ServerProcess

pytestmark = pytest.mark.real
WINDOW = Window(rate_s=30, range_s=600)
LOAD_S = 8.0
LONGEST_S = 40.0
"""For what clients do wrong, the last scrape and the last evaluation of rules."""


async def test_every_panel_alert_and_rule_has_data_and_latencies_name_their_requests(server: ServerProcess) -> None:
    program("prometheus")
    began = time.time()
    coverage = Coverage([*panels(DEPLOY, WINDOW), *rules(DEPLOY)])
    config = DEPLOY / "prometheus" / "prometheus.yml"
    async with (
        scraping(f"127.0.0.1:{server.port}", config) as prometheus,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        requests = mixed(heldout(), seed=0)
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(LOAD_S, over.set)
        await load(client, requests, 4, over)
        await troubles(client, requests, 1)
        while [asked for asked in coverage.without_data if asked.name not in MAY_BE_EMPTY]:
            await coverage.look(prometheus)
            if time.time() > began + LOAD_S + LONGEST_S:
                break
        assert [asked.name for asked in coverage.without_data if asked.name not in MAY_BE_EMPTY] == []
        exemplars = await prometheus.exemplars("cos_time_to_answer_seconds_bucket", began, time.time())
    labels = [exemplar["labels"] for series in exemplars for exemplar in series["exemplars"]]
    assert labels
    assert all("request_id" in each for each in labels)


def test_every_series_of_vllm_that_is_asked_for_is_there(server: ServerProcess) -> None:
    there = set(re.findall(r"^(vllm:\w+)\{", httpx.get(f"{server.url}/metrics").text, flags=re.MULTILINE))
    everything = [*panels(DEPLOY, WINDOW), *rules(DEPLOY)]
    asked = {name for each in everything for expr in each.expressions for name in re.findall(r"vllm:\w+", expr)}
    assert asked
    assert asked <= there
