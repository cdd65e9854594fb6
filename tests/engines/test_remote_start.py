"""What is found out of a vLLM elsewhere before it is used: what it serves, what it can carry, what it must not be."""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cos.engines.launch import launch
from cos.engines.remote import RemoteEngine
from cos.engines.remote_start import connect
from cos.engines.remote_wire import COMPLETIONS, GENERATE, POOLING
from cos.engines.settings import EngineSettings
from cos.search.errors import InputError
from cos.search.ports import Draw, Stops
from cos.search.prompt import Prompt
from cos.search.types import Turn
from tests.engines.small_tokenizer import tokenizer
from tests.engines.stub_server import Asked, Reply, StubServer, answer, stub

CARD = {"id": "served", "root": "org/model", "parent": None, "max_model_len": 512}
BROKEN_OFF = "broken off"
PATHS = {"generate": GENERATE, "completions": COMPLETIONS, "pooling": POOLING}
RAW = Prompt((Turn("user", "How much?"),), "raw")
Route = Callable[[Asked], Reply]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder, as far as it is needed on this side."""
    path = tmp_path_factory.mktemp("model")
    tokenizer().save_pretrained(path)
    return path


def refused(status: int, message: str = "no") -> bytes:
    return answer({"error": {"message": message}}, status)


def tokenized(asked: Asked) -> Reply:
    return answer({"tokens": tokenizer().encode(asked.body["prompt"], add_special_tokens=False)})


def usage(ids: list[int], **details: Any) -> dict[str, Any]:
    return {"prompt_tokens": len(ids), **details}


def generated(asked: Asked) -> Reply:
    labels = dict.fromkeys(asked.body["sampling_params"].get("logprob_token_ids", ()))
    top = [{"token_id": label, "logprob": -1.0 - label} for label in labels]
    choice = {
        "token_ids": [7],
        "finish_reason": "length",
        "logprobs": {"content": [{"token_id": 7, "top_logprobs": top}]},
    }
    cached = {"prompt_tokens_details": {"cached_tokens": 0}}
    return answer({"choices": [choice], "usage": usage(asked.body["token_ids"], **cached)})


def completed(asked: Asked) -> Reply:
    labels = dict.fromkeys(asked.body.get("logprob_token_ids", ()))
    logprobs = {"token_logprobs": [-0.5], "top_logprobs": [{f"token_id:{label}": -1.0 - label for label in labels}]}
    choice = {"token_ids": [7], "finish_reason": "length", "logprobs": logprobs}
    return answer({"choices": [choice], "usage": usage(asked.body["prompt"])})


def pooled(asked: Asked) -> Reply:
    if asked.body["task"] != "token_classify":
        return refused(400)
    rows = [[0.5, -0.5 - number] for number, _ in enumerate(asked.body["input"])]
    return answer({"data": [{"data": rows}], "usage": usage(asked.body["input"])})


def without_priorities(route: Route) -> Route:
    return lambda asked: refused(400, "priority") if asked.body["priority"] else route(asked)


def always(reply: bytes) -> Route:
    """A route that answers this, whatever it is asked."""
    return lambda asked: reply


@asynccontextmanager
async def serving(**routes: Route) -> AsyncGenerator[StubServer]:
    """A server with these routes beside those that every vLLM has."""
    known: dict[str, Route] = {
        "/v1/models": routes.pop("models", always(answer({"data": [CARD]}))),
        "/tokenize": routes.pop("tokenize", tokenized),
        **{PATHS[name]: route for name, route in routes.items()},
    }
    async with stub(lambda asked: known[asked.path](asked) if asked.path in known else refused(404)) as server:
        yield server


@asynccontextmanager
async def connected(folder: Path, **routes: Route) -> AsyncGenerator[RemoteEngine]:
    async with serving(**routes) as server:
        settings = EngineSettings(role="policy", model=str(folder), runtime="remote", url=server.url)
        engines = await launch(settings, None)
        try:
            assert isinstance(engines.policy, RemoteEngine)
            yield engines.policy
        finally:
            await engines.close()


def missing(engine: RemoteEngine) -> list[str]:
    """What it lacks beside what every vLLM elsewhere does."""
    return [lack for lack in engine.lacks if BROKEN_OFF not in lack]


async def test_what_it_lacks_is_said_in_one_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(folder, completions=completed) as engine:
        (line,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
        assert line.startswith(f"the policy at {engine.settings.url}: it is not shown pictures; ")
        assert len(engine.lacks) == 3
        assert all(lack in line for lack in engine.lacks)


async def test_a_server_with_all_options_lacks_nothing_that_an_option_gives(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(folder, generate=generated) as engine:
        assert [each for each in caplog.records if each.levelname == "WARNING"] == []
        assert (engine.served.model, engine.context_tokens) == ("served", 512)
        assert engine.abilities == {"labels", "text"}
        assert engine.served.has_priorities
        assert missing(engine) == []
        assert any(BROKEN_OFF in lack for lack in engine.lacks)


async def test_one_without_scale_out_is_asked_for_completions_and_shown_no_pictures(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disabled = refused(403, "Scale-out endpoints are disabled")
    async with connected(folder, generate=always(disabled), completions=completed) as engine:
        assert [lack for lack in missing(engine) if "--enable-scale-out" in lack]
        assert "is not shown pictures; start it as vllm serve MODEL --enable-scale-out" in caplog.text
        session = await engine.open(RAW)
        drawn = await session.draw((1,), Draw(max_tokens=4, stops=Stops(), seed=1, logprobs=True))
        assert (drawn.written, drawn.logprob) == ((7,), -0.5)
        assert (await session.read_labels((1,), (3, 4), 0)).logprobs == (-4.0, -5.0)


async def test_one_without_priorities_is_sent_none(folder: Path) -> None:
    async with connected(folder, generate=without_priorities(generated)) as engine:
        assert [lack for lack in missing(engine) if "--scheduling-policy priority" in lack]
        await (await engine.open(RAW)).read_labels((), (3, 4), -1000)
        await engine.probe()


async def test_one_that_tells_nothing_of_its_cache_is_told_of(folder: Path) -> None:
    async with connected(folder, completions=completed) as engine:
        assert [lack for lack in missing(engine) if "--enable-prompt-tokens-details" in lack]


async def test_a_model_with_a_head_is_read_at_its_last_token(folder: Path) -> None:
    async with connected(folder, pooling=pooled) as engine:
        assert engine.abilities == {"head"}
        session = await engine.open(RAW)
        read = await session.read_head((1, 2), 0)
        assert read.prompt_tokens == session.prompt_tokens + 2
        assert read.values == (0.5, 0.5 - read.prompt_tokens)
        await engine.probe()


def cached(route: Route, tokens: int | None) -> Route:
    """The same, which tells that so much of a prompt was in its cache."""

    def tells(asked: Asked) -> Reply:
        reply = route(asked)
        assert isinstance(reply, bytes)
        if b"200 OK" not in reply:
            return reply
        body = json.loads(reply.partition(b"\r\n\r\n")[2])
        return answer({**body, "usage": {**body["usage"], "prompt_tokens_details": {"cached_tokens": tokens}}})

    return tells


@pytest.mark.parametrize(("tokens", "is_told"), [(None, True), (0, True), (64, False)])
async def test_a_head_for_which_nothing_is_cached_is_told_of(
    folder: Path, tokens: int | None, *, is_told: bool
) -> None:
    async with connected(folder, pooling=cached(pooled, tokens)) as engine:
        assert any("computes every chain from its beginning" in lack for lack in engine.lacks) == is_told


def pooled_at_tags(asked: Asked) -> Reply:
    """As vLLM reads a Qwen2.5-Math-PRM: of a prompt without tags it says nothing."""
    return (
        refused(400)
        if asked.body["task"] != "token_classify"
        else answer({"data": [{"data": []}], "usage": usage(asked.body["input"])})
    )


@pytest.mark.parametrize(
    ("routes", "why"),
    [
        (
            {"pooling": pooled_at_tags},
            'at 0 of .* tokens; start it with --pooler-config \'{"tok_pooling_type": "ALL"}\'',
        ),
        ({}, "can neither be asked for tokens nor for the values of a head; start it as vllm serve"),
        ({"models": always(refused(401))}, "401.* give its key by --policy-api-key or COS_POLICY_API_KEY"),
        ({"models": always(answer(b"<html>"))}, "no JSON"),
        ({"models": always(answer({"data": []}))}, "serves nothing"),
        (
            {"models": always(answer({"data": [CARD, {**CARD, "id": "other"}]}))},
            "serves 'served', 'other'; give one of these names",
        ),
        ({"models": always(answer({"data": [{"id": "served"}]}))}, "does not tell the longest prompt"),
        ({"tokenize": always(answer({"tokens": [1, 2]}))}, "has another tokenizer than 'served'"),
        ({"generate": always(refused(500, "boom"))}, "500 .boom."),
    ],
)
async def test_what_cannot_be_used_is_refused_with_what_to_do(folder: Path, routes: dict[str, Route], why: str) -> None:
    with pytest.raises(InputError, match=why) as error:
        async with connected(folder, **routes):
            pass
    assert error.value.param == "policy"


async def test_log_probabilities_after_temperature_are_refused(folder: Path) -> None:
    def scaled(asked: Asked) -> Reply:
        params = asked.body["sampling_params"]
        top = [{"token_id": label, "logprob": -1.0 / params["temperature"]} for label in params["logprob_token_ids"]]
        content = [{"token_id": 7, "top_logprobs": top}]
        choice = {"token_ids": [7], "finish_reason": "length", "logprobs": {"content": content}}
        return answer({"choices": [choice], "usage": usage(asked.body["token_ids"])})

    with pytest.raises(InputError, match="after temperature; start it without --logprobs-mode"):
        async with connected(folder, generate=scaled):
            pass


async def test_a_name_that_no_tokenizer_goes_by_is_refused_with_the_name_that_is_served(folder: Path) -> None:
    with pytest.raises(InputError, match=r"its tokenizer is needed here.* serves as 'served'"):
        async with connected(folder / "nowhere", generate=generated):
            pass


async def test_an_adapter_is_asked_by_its_own_name_with_the_context_of_its_base(folder: Path) -> None:
    cards = [CARD, {"id": "judge", "root": "/adapters/judge", "parent": "served"}]
    models = always(answer({"data": cards}))
    async with serving(models=models, generate=generated) as server:
        for name in ("judge", "/adapters/judge"):
            settings = EngineSettings(role="policy", model=str(folder), runtime="remote", url=server.url, adapter=name)
            (engine,) = await connect([settings])
            assert (engine.served.model, engine.context_tokens) == ("judge", 512)
            await engine.close()
        assert {asked.body["model"] for asked in server.asked if asked.path == GENERATE} == {"judge"}
        with pytest.raises(InputError, match="serves 'judge'; give one of these names") as error:
            await connect([EngineSettings(role="policy", model=str(folder), url=server.url, adapter="served")])
    assert error.value.param == "prm_lora"
