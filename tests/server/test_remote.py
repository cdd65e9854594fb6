"""A server whose models run elsewhere: what is told of them, and what happens while they are away."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr, ValidationError

from cos.checkpoints import embedded
from cos.engines.launch import Engines
from cos.engines.remote import RemoteEngine
from cos.prm.matching import match
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.terms import Sampling
from cos.search.types import Question
from cos.server.app import create_app
from cos.server.checks.elsewhere import check_elsewhere
from cos.server.checks.files import check_files
from cos.server.flags import load_settings
from cos.server.settings import Settings
from tests.engines.stub_process import StubProcess
from tests.engines.stub_vllm import GENERATE, ScriptedVllm, connected, remote
from tests.server.support import error_of, settings, until


@asynccontextmanager
async def serving(policy: RemoteEngine, prm: RemoteEngine) -> AsyncGenerator[httpx.AsyncClient]:
    async def start(_: Settings) -> Engines:
        return Engines(policy, prm)

    app = create_app(settings(image_required=False), start=start)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=20) as http,
    ):
        yield http


@pytest_asyncio.fixture
async def processes() -> AsyncGenerator[tuple[StubProcess, StubProcess]]:
    both = StubProcess(), StubProcess()
    try:
        await asyncio.gather(*(process.start() for process in both))
        yield both
    finally:
        for process in both:
            process.kill()


@pytest.mark.parametrize("killed", ["policy", "prm"])
async def test_a_model_whose_process_is_killed_ends_the_search_and_is_served_again_when_it_is_back(
    killed: str, processes: tuple[StubProcess, StubProcess]
) -> None:
    async with (
        connected(processes[0].url) as policy,
        connected(processes[1].url, "prm") as prm,
        serving(policy, prm) as http,
    ):
        ask = {"question": "How much?", "strategy": "beam", "n": 4}
        assert (await http.post("/solve", json=ask)).status_code == 200
        assert (await http.get("/ready")).status_code == 200
        process, engine = (processes[0], policy) if killed == "policy" else (processes[1], prm)
        searching = asyncio.create_task(http.post("/solve", json={**ask, "seed": 1}))
        before = engine.steps
        await until(lambda: engine.steps > before + 2)
        process.kill()
        # Far below the time that an answer may take, so that nobody waits for one.
        async with asyncio.timeout(30):
            replies = (await searching, await http.post("/solve", json=ask))
        for reply in replies:
            assert (reply.status_code, error_of(reply)["code"]) == (503, "remote_unreachable")
            assert reply.headers["retry-after"]
            assert process.url not in reply.text
        for path in ("/health", "/ready"):
            assert (await http.get(path)).status_code == 503
        await process.start()
        await until(lambda: policy.is_alive and prm.is_alive)
        assert (await http.get("/ready")).status_code == 200
        assert (await http.post("/solve", json=ask)).status_code == 200


async def test_what_a_model_elsewhere_cannot_carry_is_told_with_the_model() -> None:
    async with (
        remote(ScriptedVllm()) as (policy, _),
        remote(ScriptedVllm(), "prm") as (prm, _),
        serving(policy, prm) as http,
    ):
        (card,) = (await http.get("/v1/models")).json()["data"]
    assert card["elsewhere"] == {"policy": ["lacks much"], "prm": ["lacks much"]}


async def test_a_check_tells_what_a_model_elsewhere_cannot_carry_and_how_it_could() -> None:
    chosen = Settings(policy_url="http://one:8000", prm_url="http://two:8000")
    async with remote(ScriptedVllm()) as (policy, _), remote(ScriptedVllm(), "prm") as (prm, _):
        policy.served = replace(policy.served, lacks=("takes requests in their order; start it with --x y", "forgets"))
        prm.served = replace(prm.served, lacks=())
        found = [*await check_files(chosen), *check_elsewhere(chosen, Engines(policy, prm))]
    assert [(each.name, each.state, each.found, each.todo) for each in found] == [
        ("policy files", "ok", "not looked at: it runs at http://one:8000", ""),
        ("PRM files", "ok", "not looked at: it runs at http://two:8000", ""),
        (
            "policy elsewhere",
            "warning",
            "at http://one:8000; it takes requests in their order; it forgets",
            "start it with --x y",
        ),
        ("PRM elsewhere", "ok", "at http://two:8000", ""),
    ]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_search_over_http_is_the_search_in_process(temperature: float) -> None:
    spec = SearchSpec(
        "beam", {"n": 4, "beam_width": 2}, sampling=Sampling(temperature=temperature, seed=3), speculate=False
    )
    here, there = ScriptedVllm(), ScriptedVllm()
    one = await solve(Question("How much?"), spec, match(here.engine, there.engine))
    async with remote(ScriptedVllm()) as (policy, server), remote(ScriptedVllm(), "prm") as (prm, _):
        other = await solve(Question("How much?"), spec, match(policy, prm))
    told = [
        [(candidate.path, candidate.written, candidate.score) for candidate in result.chain.candidates]
        for result in (one, other)
    ]
    assert told[0] == told[1]
    assert one.usage.tokens_generated == other.usage.tokens_generated
    assert server.of(GENERATE)


def test_a_model_elsewhere_is_named_by_its_address_and_its_key() -> None:
    chosen = Settings(
        policy_url="http://one:8000/v1/", policy_api_key=SecretStr("sk-1"), prm_url="https://two", remote_retries=0
    )
    policy, prm = chosen.engine_settings("policy"), chosen.engine_settings("prm")
    assert policy is not None
    assert prm is not None
    assert (policy.runtime, policy.url, policy.api_key) == ("remote", "http://one:8000", "sk-1")
    assert (prm.runtime, prm.url, prm.api_key, prm.retries) == ("remote", "https://two", None, 0)
    assert policy.model == str(embedded("policy"))
    assert "sk-1" not in repr(chosen) + repr(policy)


def test_one_model_may_be_elsewhere_and_the_other_here() -> None:
    chosen = Settings(prm_url="http://two:8000")
    roles = [chosen.engine_settings("policy"), chosen.engine_settings("prm")]
    assert [each and each.runtime for each in roles] == ["vllm", "remote"]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"policy_url": "one:8000"}, "expected the address of a vLLM server, as http://host:8000"),
        ({"policy_url": "http://user:key@one"}, "expected the address"),
        ({"prm_url": "http://two", "prm": "none"}, "--prm-url http://two needs a --prm"),
        ({"policy_url": "http://one", "policy": "scripted"}, "--policy-url http://one needs a --policy"),
        ({"policy_api_key": "k"}, "--policy-api-key needs a --policy-url"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, str], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Settings.model_validate(values)


def test_a_key_comes_by_environment_and_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COS_PRM_API_KEY", "sk-hidden")
    with pytest.raises(SystemExit):
        load_settings([])
    assert "sk-hidden" not in capsys.readouterr().err
    chosen = load_settings(["--prm-url", "http://two:8000"])
    assert chosen.prm_api_key is not None
    assert chosen.prm_api_key.get_secret_value() == "sk-hidden"
