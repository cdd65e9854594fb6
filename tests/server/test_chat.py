"""POST /v1/chat/completions, as OpenAI's own client uses it and as it is refused."""

from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.server.support import Served, data_uri, error_of, listening, picture_bytes, served, sse_events

IMAGE = {"type": "image_url", "image_url": {"url": data_uri(picture_bytes()), "detail": "low"}}
TEXT = {"type": "text", "text": "How many rows?"}


def messages(*content: Any, before: tuple[dict[str, Any], ...] = ()) -> list[Any]:
    return [*before, {"role": "user", "content": list(content) or [TEXT, IMAGE]}]


@pytest_asyncio.fixture
async def client() -> AsyncGenerator[openai.AsyncOpenAI]:
    """OpenAI's client on a server behind a socket."""
    async with (
        listening() as server,
        openai.AsyncOpenAI(base_url=f"{server.http.base_url}/v1", api_key="sk-none") as client,
    ):
        yield client


async def test_the_answer_is_the_content_and_the_steps_are_the_reasoning(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(
        model="scripted", messages=messages(), seed=3, extra_body={"cos": {"strategy": "beam", "n": 4}}
    )
    message, extra = reply.choices[0].message, reply.model_extra
    assert extra is not None
    cos, reasoning = extra["cos"], message.model_dump()["reasoning"]
    assert message.content == cos["answer"]
    assert reply.choices[0].finish_reason == "stop"
    assert reasoning == message.model_dump()["reasoning_content"]
    first = cos["steps"][0]
    assert reasoning.splitlines()[0] == f"Step 1 (score {first['score']:.2f}): {first['name']} — {first['thought']}"
    assert (cos["strategy"], cos["parameters"]["n"], cos["parameters"]["seed"]) == ("beam", 4, 3)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == cos["usage"]["tokens_generated"]
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.completion_tokens_details is not None
    assert 0 < (reply.usage.completion_tokens_details.reasoning_tokens or 0) < reply.usage.completion_tokens
    assert reply._request_id  # pyright: ignore[reportPrivateUsage]


async def test_a_stream_brings_reasoning_then_the_answer_then_usage(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="scripted", messages=messages(), seed=3, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    content = "".join(delta.content or "" for delta in deltas)
    reasoning = "".join((delta.model_extra or {}).get("reasoning", "") for delta in deltas)
    whole = await client.chat.completions.create(model="scripted", messages=messages(), seed=3)
    assert deltas[0].role == "assistant"
    assert (deltas[0].model_extra or {})["reasoning"].startswith("Step 1")
    assert content == whole.choices[0].message.content
    assert reasoning == whole.choices[0].message.model_dump()["reasoning"]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert (chunks[-2].model_extra or {})["cos"]["answer"] == content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


async def test_models_and_typed_errors_reach_the_client(client: openai.AsyncOpenAI) -> None:
    assert [model.id for model in (await client.models.list()).data] == ["scripted"]
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="other", messages=messages())
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        await client.chat.completions.create(model="scripted", messages=messages(), n=2)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert refused.value.param == "n"


async def ask(server: Served, **fields: Any) -> dict[str, Any]:
    """The reply to a chat completion that must succeed."""
    good = {"model": "scripted", "messages": messages(), "seed": 0}
    response = await server.http.post("/v1/chat/completions", json={**good, **fields})
    assert response.status_code == 200, response.text
    return response.json()


async def test_system_messages_go_before_the_question(server: Served) -> None:
    before = ({"role": "system", "content": "Be brief."}, {"role": "developer", "content": [TEXT]})
    cos = (await ask(server, messages=messages(IMAGE, TEXT, before=before)))["cos"]
    assert cos["question"] == "Be brief.\nHow many rows?\nHow many rows?"


async def test_a_bare_string_is_an_image_address_too(server: Served) -> None:
    part = {"type": "image_url", "image_url": data_uri(picture_bytes())}
    assert (await ask(server, messages=messages(TEXT, part)))["cos"]["complete"] is True


async def test_temperature_0_is_ignored_with_a_warning_and_a_higher_one_is_honoured(server: Served) -> None:
    cold, warm = await ask(server, temperature=0), await ask(server, temperature=0.5, top_p=0.9)
    own = await ask(server, temperature=0, cos={"temperature": 0.0})
    assert cold["cos"]["parameters"]["temperature"] == 1.0
    assert "temperature 0 was ignored" in cold["cos"]["warnings"][0]
    assert (warm["cos"]["parameters"]["temperature"], warm["cos"]["parameters"]["top_p"]) == (0.5, 0.9)
    assert warm["cos"]["warnings"] == []
    assert own["cos"]["parameters"]["temperature"] == 0.0
    assert ["all 16 candidates are the same" in warning for warning in own["cos"]["warnings"]] == [True]


async def test_the_cos_object_wins_over_openais_fields(server: Served) -> None:
    reply = await ask(server, seed=1, temperature=0.5, cos={"seed": 2, "temperature": 0.25})
    assert reply["cos"]["parameters"]["seed"] == 2
    assert reply["cos"]["parameters"]["temperature"] == 0.25


HARMLESS: list[dict[str, Any]] = [
    {"user": "me"},
    {"n": 1},
    {"stop": None},
    {"logprobs": False},
    {"presence_penalty": 0, "frequency_penalty": 0.0},
    {"response_format": {"type": "text"}},
    {"tools": [], "tool_choice": "none"},
    {"metadata": {"a": "b"}, "store": False},
    {"stream_options": None},
    {"max_tokens": 100},
    {"max_completion_tokens": 100, "ignore_eos": True},
]


@pytest.mark.parametrize("fields", HARMLESS, ids=str)
async def test_what_clients_send_by_habit_does_no_harm(server: Served, fields: dict[str, Any]) -> None:
    warnings = (await ask(server, **fields))["cos"]["warnings"]
    meant = [name for name in fields if name in ("max_tokens", "max_completion_tokens", "ignore_eos")]
    assert [warning.split()[0] for warning in warnings] == meant


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n": 2}, "n"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format.type"),
    ({"stop": ["\n"]}, "stop"),
    ({"logprobs": True}, "logprobs"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"logit_bias": {"1": 2}}, "logit_bias"),
    ({"chat_template_kwargs": {}}, "chat_template_kwargs"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"cos": {"n": 65}}, "n"),
    ({"cos": {"temprature": 1}}, "temprature"),
    ({"cos": {"stream": True}}, "stream"),
    ({"temperature": 3.0}, "temperature"),
    ({"messages": []}, "messages"),
    ({"messages": messages() + messages()}, "messages"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
    ({"messages": messages(before=({"role": "assistant", "content": "x"},))}, "messages[0].role"),
    ({"messages": messages(TEXT, IMAGE, IMAGE)}, "messages[0].content[2].image_url"),
    ({"messages": messages(IMAGE)}, "messages[0].content"),
    ({"messages": messages(TEXT)}, "image"),
    ({"messages": messages({"type": "text"})}, "messages[0].content[0]"),
    ({"messages": messages({"type": "input_audio", "input_audio": {}})}, "messages[0].content[0].type"),
    ({"messages": messages(TEXT, {**IMAGE, "uuid": "x"})}, "messages[0].content[1].uuid"),
    (
        {"messages": messages(before=({"role": "system", "content": [IMAGE]},))},
        "messages[0].content[0].image_url",
    ),
    (
        {"messages": messages(TEXT, {"type": "image_url", "image_url": {"url": data_uri(b"hello")}})},
        "messages[0].content[1].image_url",
    ),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=lambda value: str(value)[:50])
async def test_what_cannot_be_honoured_is_refused_by_name(server: Served, fields: dict[str, Any], param: str) -> None:
    good = {"model": "scripted", "messages": messages()}
    response = await server.http.post("/v1/chat/completions", json={**good, **fields})
    assert response.status_code == 422, response.text
    assert error_of(response)["param"] == param
    assert server.policy.most_in_flight == 0


@pytest.mark.parametrize("address", ["http://127.0.0.1/x.png", "https://example.com/x.png", "file:///etc/passwd"])
async def test_an_image_address_is_refused_with_the_fix(server: Served, address: str) -> None:
    content = messages(TEXT, {"type": "image_url", "image_url": {"url": address}})
    response = await server.http.post("/v1/chat/completions", json={"model": "scripted", "messages": content})
    error = error_of(response)
    assert (response.status_code, error["code"]) == (422, "image_url_disabled")
    assert error["param"] == "messages[0].content[1].image_url"
    assert "send the image as a data URI" in error["message"]


async def test_a_search_without_an_answer_has_empty_content_and_length(server: Served) -> None:
    fields = {"messages": messages(), "model": "scripted", "cos": {"n": 1, "max_steps": 1, "seed": 0}}
    reply = await ask(server, **fields)
    streamed = await server.http.post("/v1/chat/completions", json={**fields, "stream": True})
    assert reply["choices"][0]["message"]["content"] == ""
    assert reply["choices"][0]["finish_reason"] == "length"
    assert sse_events(streamed.text)[-1].data == "[DONE]"
    assert sse_events(streamed.text)[-2].data["choices"][0]["finish_reason"] == "length"


async def test_overload_while_streaming_is_a_status_not_a_chunk() -> None:
    async with served(image_required=False) as server:
        await server.service.admission.drain(0)
        fields = {"model": "scripted", "messages": messages(TEXT), "stream": True}
        assert (await server.http.post("/v1/chat/completions", json=fields)).status_code == 503
