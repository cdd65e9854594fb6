"""POST /v1/chat/completions, as OpenAI's own client uses it and as it is refused."""

import random
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import openai
import pytest
import pytest_asyncio

from cos.engines.scripted import Script
from cos.search.grammars.cos import NAME_START, STEP_END, answer_text
from cos.search.prompt import Prompt
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
    assert reasoning.splitlines()[0] == f"Step 1 (score {first['score']:.2f}): {first['text']}"
    assert (cos["strategy"], cos["parameters"]["n"], cos["parameters"]["seed"]) == ("beam", 4, 3)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == cos["usage"]["tokens_generated"]
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.completion_tokens_details is not None
    assert 0 < (reply.usage.completion_tokens_details.reasoning_tokens or 0) < reply.usage.completion_tokens
    assert reply._request_id  # pyright: ignore[reportPrivateUsage]


async def test_what_stands_beside_the_answer_is_reasoning_too() -> None:
    def write(prompt: Prompt, before: str, rng: random.Random) -> str:
        del prompt, rng
        return "7 and 5 make 12.\nFinal answer: 12" if before else "I see 7 and 5.\n\n"

    asked = {"model": "scripted", "messages": messages(TEXT), "cos": {"strategy": "greedy"}}
    async with served(Script(writer=write), grammar="paragraph", image_required=False) as server:
        reply = (await server.http.post("/v1/chat/completions", json=asked)).json()
        stream = (await server.http.post("/v1/chat/completions", json={**asked, "stream": True})).text
    message = reply["choices"][0]["message"]
    assert message["content"] == "12"
    assert [line.partition("): ")[2] or line for line in message["reasoning"].splitlines()] == [
        "I see 7 and 5.",
        "7 and 5 make 12.",
    ]
    assert reply["cos"]["answer_fields"] == {"reasoning": "7 and 5 make 12."}
    assert '"reasoning": "\\n7 and 5 make 12."' in stream


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
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="scripted", messages=messages(), n=2)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert refused.value.param == "n"


async def ask(server: Served, **fields: Any) -> dict[str, Any]:
    """The reply to a chat completion that must succeed."""
    good = {"model": "scripted", "messages": messages(), "seed": 0}
    response = await server.http.post("/v1/chat/completions", json={**good, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def told(reply: dict[str, Any]) -> list[str]:
    """The warnings of what was asked for in vain."""
    return [warning for warning in reply["cos"]["warnings"] if "ignored" in warning]


async def test_a_bare_string_is_an_image_address_too(server: Served) -> None:
    part = {"type": "image_url", "image_url": data_uri(picture_bytes())}
    assert (await ask(server, messages=messages(TEXT, part)))["cos"]["complete"] is True


async def test_temperature_0_is_ignored_with_a_warning_and_a_higher_one_is_honoured(server: Served) -> None:
    cold, warm = await ask(server, temperature=0), await ask(server, temperature=0.5, top_p=0.9)
    own = await ask(server, temperature=0, cos={"temperature": 0.0})
    assert cold["cos"]["parameters"]["temperature"] == 1.0
    assert "temperature 0 was ignored" in cold["cos"]["warnings"][0]
    assert (warm["cos"]["parameters"]["temperature"], warm["cos"]["parameters"]["top_p"]) == (0.5, 0.9)
    assert told(warm) == []
    assert own["cos"]["parameters"]["temperature"] == 0.0
    assert sum("all 16 candidates are the same" in warning for warning in own["cos"]["warnings"]) == 1


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
    {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"},
    {"functions": [{"name": "f"}]},
    {"tool_choice": "auto", "parallel_tool_calls": True},
    {"tools": [{"type": "function"}], "tool_choice": "none"},
    {"top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1},
    {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "chat_template_kwargs": {}},
    {"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}},
    {"prompt_cache_key": "x", "safety_identifier": "y", "prediction": None, "verbosity": "low", "modalities": ["text"]},
    {"stream": None, "seed": -1, "stream_options": {"include_obfuscation": False}},
]
IGNORED = {
    *("max_tokens", "max_completion_tokens", "ignore_eos", "tools", "functions"),
    *("top_k", "min_p", "repetition_penalty", "reasoning_effort", "chat_template_kwargs"),
}
ASK_NOTHING: tuple[Any, ...] = ([], {}, 0, -1, 1.0)


@pytest.mark.parametrize("fields", HARMLESS, ids=str)
async def test_what_clients_send_by_habit_does_no_harm(server: Served, fields: dict[str, Any]) -> None:
    warnings = [warning.split()[0] for warning in told(await ask(server, **fields))]
    meant = {name for name, value in fields.items() if name in IGNORED and (value is True or value not in ASK_NOTHING)}
    assert sorted(warnings) == sorted(meant - {"tools"} if fields.get("tool_choice") == "none" else meant)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n": 2}, "n"),
    ({"tools": [{"type": "function"}], "tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
    ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
    ({"response_format": {"type": "json_object"}}, "response_format.type"),
    ({"stop": ["\n"]}, "stop"),
    ({"logprobs": True}, "logprobs"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"logit_bias": {"1": 2}}, "logit_bias"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"cos": {"n": 65}}, "n"),
    ({"cos": {"temprature": 1}}, "temprature"),
    ({"cos": {"stream": True}}, "stream"),
    ({"temperature": 3.0}, "temperature"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
    ({"messages": messages(before=({"role": "tool", "content": "x"},))}, "messages[0].role"),
    ({"messages": [*messages(), {"role": "assistant", "content": "x"}]}, "messages[1].role"),
    ({"messages": [*messages(), {"role": "assistant", "content": "", "tool_calls": [1]}]}, "messages[1].tool_calls"),
    ({"messages": messages(TEXT, *[IMAGE] * 9)}, "messages[0].content[9].image_url"),
    ({"messages": messages(IMAGE)}, "messages[0].content"),
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
    assert response.status_code == 400, response.text
    assert error_of(response)["param"] == param
    assert server.policy.most_in_flight == 0


@pytest.mark.parametrize("address", ["http://127.0.0.1/x.png", "https://example.com/x.png", "file:///etc/passwd"])
async def test_an_image_address_is_refused_with_the_fix(server: Served, address: str) -> None:
    content = messages(TEXT, {"type": "image_url", "image_url": {"url": address}})
    response = await server.http.post("/v1/chat/completions", json={"model": "scripted", "messages": content})
    error = error_of(response)
    assert (response.status_code, error["code"]) == (400, "image_url_disabled")
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


async def test_consecutive_user_messages_are_one_question(server: Served) -> None:
    turns = [{"role": "user", "content": [IMAGE]}, {"role": "user", "content": "How many rows?"}]
    assert (await ask(server, messages=turns))["cos"]["question"] == "How many rows?"


async def test_a_hello_without_a_picture_is_told_what_this_model_needs() -> None:
    fields = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    async with served(image_required=True) as server:
        response = await server.http.post("/v1/chat/completions", json=fields)
    assert response.status_code == 400
    assert "answers questions about a picture" in error_of(response)["message"]
    assert "image_url" in error_of(response)["message"]


async def test_temperature_0_is_in_force_with_greedy_and_asks_for_the_same_again(server: Served) -> None:
    greedy = await ask(server, temperature=0, cos={"strategy": "greedy"})
    assert told(greedy) == []
    assert greedy["cos"]["parameters"]["temperature"] == 0.0
    seeds = {
        (await ask(server, temperature=0, seed=None, cos=cos))["cos"]["parameters"]["seed"]
        for cos in ({}, {"strategy": "greedy"}, {"temperature": 0.0})
    }
    assert seeds == {0}


async def test_without_a_seed_a_warm_request_is_drawn_anew(server: Served) -> None:
    seeds = {(await ask(server, seed=-1))["cos"]["parameters"]["seed"] for _ in range(3)}
    assert len(seeds) == 3


async def test_a_policy_that_knows_no_system_text_is_spared_it_and_the_reply_says_so(server: Served) -> None:
    server.app.state.service = replace(server.service, takes_system_text=False)
    before = ({"role": "system", "content": "You are a helpful assistant."},)
    cos = (await ask(server, messages=messages(before=before)))["cos"]
    assert cos["question"] == "How many rows?"
    assert any(warning.startswith("the system message was left out") for warning in cos["warnings"])


def doubtful(prompt: Prompt, written: str) -> float:
    del prompt, written
    return 0.3


async def test_an_answer_that_is_hardly_believed_says_so() -> None:
    async with served(Script(judge=doubtful)) as server:
        reply = await ask(server)
    assert "the PRM gives this answer 0.30 of 1, so it is more likely wrong than right" in reply["cos"]["warnings"]


def nonsense(prompt: Prompt, written: str, rng: random.Random) -> str:
    del prompt, rng
    return answer_text(f"15{STEP_END}{NAME_START}", first=not written)


async def test_control_tokens_never_stand_in_the_content() -> None:
    async with served(Script(writer=nonsense)) as server:
        reply = await ask(server)
    choice = reply["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")
    assert any("there is no answer" in warning for warning in reply["cos"]["warnings"])


async def test_line_ends_of_unicode_are_escaped_in_events(server: Served) -> None:
    question = "one\u2028two\u0085three\u2029four?"
    fields = {"model": "scripted", "messages": messages({"type": "text", "text": question}, IMAGE), "stream": True}
    text = (await server.http.post("/v1/chat/completions", json=fields)).text
    assert not set(text) & set("\u2028\u2029\u0085")
    assert sse_events(text)[-2].data["cos"]["question"] == question
