"""The serving benchmark against a server that is a function."""

import asyncio
import json
from itertools import islice
from typing import Any

import httpx
import pytest

from cos.benchmarks.server_process import own_server
from cos.benchmarks.serving import Load, bodies, measure, parse_levels
from cos.benchmarks.setting import Setting
from cos.checkpoints import LedgerProblem
from cos.search.errors import CosError, InputError

SETTING = Setting(strategy="beam", n=8)


class Server:
    """Answers after a moment; remembers what it was asked and how much at once."""

    def __init__(self, fail_every: int = 0) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.in_flight = 0
        self.most_in_flight: list[int] = []
        self._fail_every = fail_every

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(json.loads(request.content))
        number = len(self.bodies)
        self.in_flight += 1
        self.most_in_flight.append(self.in_flight)
        await asyncio.sleep(0.005)
        self.in_flight -= 1
        if self._fail_every and number % self._fail_every == 0:
            return httpx.Response(503, text="gone")
        usage = {"tokens_generated": 100, "tokens_kept": 25, "prm_reads": 5}
        prompts = {
            "policy_prompt_tokens": 60,
            "policy_cached_tokens": 30,
            "prm_prompt_tokens": 40,
            "prm_cached_tokens": 30,
        }
        timings = {"first_candidate_s": 0.75}
        parameters = {"aggregation": "min"}
        return httpx.Response(200, json={"usage": usage | prompts, "timings": timings, "parameters": parameters})

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self), base_url="http://cos")


async def test_levels_take_turns_and_concurrency_pays(problems: list[LedgerProblem]):
    server = Server()
    load = Load(levels=(1, 4), requests=16, rounds=2)
    async with server.client() as client:
        facts = await measure(client, load, bodies(problems, SETTING, 0))
    assert [row["concurrency"] for row in facts["results"]] == [1, 4]
    assert [row["requests"] for row in facts["results"]] == [16, 48], "each worker gets six a round"
    assert all(row["errors"] == 0 for row in facts["results"])
    told = {
        name: facts["results"][0][name] for name in ("tokens_kept", "tokens_discarded", "prm_reads", "cached_share")
    }
    assert told == {"tokens_kept": 25, "tokens_discarded": 75, "prm_reads": 5, "cached_share": 0.6}
    assert facts["results"][0]["first_step_p50_s"] == 0.75
    warm_up, first, second, third, fourth = 4, 8, 24, 8, 24
    assert len(server.bodies) == load.total == warm_up + first + second + third + fourth
    assert max(server.most_in_flight[4:12]) == 1
    assert max(server.most_in_flight[12:36]) == 4
    assert max(server.most_in_flight[36:44]) == 1


def test_no_two_requests_are_alike(problems: list[LedgerProblem]):
    sent = list(islice(bodies(problems, SETTING, 0), 2 * len(problems)))
    assert len({body["image"] for body in sent[: len(problems)]}) == len(problems)
    assert len({body["seed"] for body in sent}) == len(sent)
    assert sent[0]["n"] == 8
    assert "beam_width" not in sent[0]
    assert "n" not in next(bodies(problems, Setting(strategy="greedy"), 0))


async def test_failures_are_counted_and_told(problems: list[LedgerProblem]):
    async with Server(fail_every=4).client() as client:
        facts = await measure(client, Load(levels=(2,), requests=12, rounds=1), bodies(problems, SETTING, 0))
    row = facts["results"][0]
    assert (row["requests"], row["errors"], row["first_error"]) == (12, 3, "503 gone")


async def test_a_server_that_only_fails_is_an_error(problems: list[LedgerProblem]):
    async with Server(fail_every=1).client() as client:
        with pytest.raises(CosError, match="503 gone"):
            await measure(client, Load(levels=(1,), requests=2, rounds=1), bodies(problems, SETTING, 0))


def test_levels_that_are_no_numbers_are_refused():
    assert parse_levels("1, 16") == (1, 16)
    for text in ("", "1,,2", "0", "x"):
        with pytest.raises(InputError, match="write it like"):
            parse_levels(text)


async def test_a_server_that_does_not_start_shows_why():
    with pytest.raises(CosError, match="does not exist"):
        async with own_server("/no/such/policy", "scripted"):
            pass
