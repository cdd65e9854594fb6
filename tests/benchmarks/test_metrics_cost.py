"""What counting costs: two servers that differ in it alone, in turns."""

import httpx
import pytest

from cos.benchmarks.metrics_cost import check_ways, measure
from cos.benchmarks.setting import Setting
from cos.checkpoints import LedgerProblem
from cos.search.errors import CosError, InputError

SETTING = Setting(strategy="best_of_n", n=8)


class Server:
    """Answers everything alike, and notes who was asked."""

    def __init__(self, name: str, asked: list[str], status: int = 200) -> None:
        self._name, self._asked, self._status = name, asked, status
        self.scrapes = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            self.scrapes += 1
            return httpx.Response(200 if self._name == "on" else 404)
        self._asked.append(self._name)
        reply = {"answer": "1", "usage": {"tokens_generated": 5}, "parameters": {"aggregation": "cos"}}
        return httpx.Response(self._status, json=reply)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self), base_url="http://cos")


async def test_both_ways_take_turns_over_the_same_problems_and_give_a_ratio(problems: list[LedgerProblem]) -> None:
    asked = list[str]()
    on, off = Server("on", asked), Server("off", asked)
    async with on.client() as counting, off.client() as silent:
        facts = await measure(counting, silent, problems, SETTING, (1,), 4, 0)
    rounds = [name for name, before in zip(asked, [None, *asked], strict=False) if name != before]
    assert len(rounds) >= 5, "they take turns"
    assert asked.count("on") == asked.count("off") == 1 + 4 * 4
    assert [row["concurrency"] for row in facts["results"]] == [1]
    for row in facts["results"]:
        assert row["ratio_ci_low"] <= row["ratio"] <= row["ratio_ci_high"]
        assert row["same_answers"] == 1.0
        assert row["on"]["searches_per_s"] > 0
    assert (facts["ratio"], facts["rounds"]) == (facts["results"][-1]["ratio"], 4)
    assert on.scrapes > 4, "the one that counts is scraped in every round"
    assert off.scrapes == 1, "and the other one only asked whether it counts"


async def test_a_server_that_counts_though_it_should_not_is_an_error(problems: list[LedgerProblem]) -> None:
    async with Server("on", []).client() as one, Server("on", []).client() as other:
        with pytest.raises(CosError, match="--no-metrics answered /metrics with 200"):
            await measure(one, other, problems, SETTING, (1,), 1, 0)


async def test_a_search_that_fails_is_an_error(problems: list[LedgerProblem]) -> None:
    async with Server("on", [], status=503).client() as one, Server("off", []).client() as other:
        with pytest.raises(CosError, match="503"):
            await measure(one, other, problems, SETTING, (1,), 1, 0)


@pytest.mark.parametrize("text", ["on", "off", "on,on", "yes,no", ""])
def test_anything_but_both_ways_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write off,on"):
        check_ways(text)
    check_ways("off, on")
