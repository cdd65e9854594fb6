"""Bodies as clients send them, unmodified, and what their users then see."""

from typing import Any

import pytest

from cos.engines.scripted import Script
from cos.search.types import Question
from tests.server.support import Served, data_uri, error_of, picture_bytes, served, sse_events

PICTURE = data_uri(picture_bytes())
QUESTION = {"type": "text", "text": "How many rows?"}
IMAGE = {"type": "image_url", "image_url": {"url": PICTURE}}
TOOLS = [
    {
        "type": "function",
        "function": {"name": f"tool_{number}", "description": "", "parameters": {"type": "object", "properties": {}}},
    }
    for number in range(36)
]


async def post(server: Served, **fields: Any) -> Any:
    """The response to a chat completion with these fields."""
    return await server.http.post("/v1/chat/completions", json={"model": "scripted", **fields})


def user(*content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else list(content), **more}


async def test_open_webuis_hello_with_its_tools_is_told_what_this_model_needs(server: Served) -> None:
    response = await post(server, stream=True, messages=[user("hello")], tools=TOOLS)
    error = error_of(response)
    assert response.status_code == 400
    assert error["message"].startswith("this model answers questions about one picture, and there is none: attach")
    assert "tools" not in error["message"]


async def test_open_webuis_question_with_a_picture_gets_its_answer(server: Served) -> None:
    response = await post(
        server,
        stream=True,
        stream_options={"include_usage": True},
        messages=[{"role": "system", "content": "You are a helpful assistant."}, user(QUESTION, IMAGE)],
        tools=TOOLS,
    )
    chunks = [event.data for event in sse_events(response.text)][:-1]
    content = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    reply = next(chunk["cos"] for chunk in chunks if "cos" in chunk)
    assert response.status_code == 200
    assert content == reply["answer"] != ""
    assert any(warning.startswith("tools was ignored") for warning in reply["warnings"])


async def test_gradios_picture_and_text_in_two_messages_are_one_question(server: Served) -> None:
    turns = [user(IMAGE), user(QUESTION)]
    response = await post(server, stream=True, messages=turns)
    events = sse_events(response.text)
    assert response.status_code == 200
    assert events[-2].data["cos"]["question"] == "How many rows?"


async def test_a_second_question_in_the_same_chat_is_told_to_begin_a_new_one(server: Served) -> None:
    turns = [user(QUESTION, IMAGE), {"role": "assistant", "content": "15"}, user("and how many columns?")]
    response = await post(server, messages=turns)
    assert response.status_code == 400
    assert "start a new chat for another question" in error_of(response)["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": TOOLS, "tool_choice": "required"},
        {"n": 2},
        {"stop": ["\n"]},
        {"response_format": {"type": "json_object"}},
        {"messages": [user(QUESTION, {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}})]},
        {"messages": [user("hello")]},
        {"cos": {"strategy": "bem"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
async def test_no_refusal_is_a_422_which_litellm_would_turn_into_an_empty_reply(
    server: Served, fields: dict[str, Any], stream: bool
) -> None:
    response = await post(server, **{"messages": [user(QUESTION, IMAGE)], "stream": stream, **fields})
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"
    assert {"message", "type", "param", "code"} == set(error_of(response))


NULLS: list[dict[str, Any]] = [
    {"audio": None, "web_search_options": None, "a_field_of_next_year": None},
    {"cos": None},
    {"stream_options": {"include_usage": None}},
    {"stream_options": {"a_field_of_next_year": None}},
    {"messages": [user(QUESTION, IMAGE, tool_calls=None, refusal=None)]},
    {"messages": [user({**QUESTION, "annotations": None}, {**IMAGE, "text": None})]},
    {"messages": [user(QUESTION, {"type": "image_url", "image_url": {"url": PICTURE, "format": None}})]},
    {"cos": {"strategy": None}},
]


@pytest.mark.parametrize("fields", NULLS, ids=lambda fields: str(fields)[:60])
async def test_null_asks_for_nothing_whatever_the_field(server: Served, fields: dict[str, Any]) -> None:
    response = await post(server, **{"messages": [user(QUESTION, IMAGE)], **fields})
    assert response.status_code == 200, response.text
    assert not any("ignored" in warning for warning in response.json()["cos"]["warnings"])


@pytest.mark.parametrize(
    ("cos", "param"), [({"temprature": 1}, "temprature"), ({"budget": {"tokns": 5}}, "budget.tokns")]
)
async def test_a_misspelt_field_of_the_search_stays_an_error(server: Served, cos: dict[str, Any], param: str) -> None:
    response = await post(server, messages=[user(QUESTION, IMAGE)], cos=cos)
    assert response.status_code == 400
    assert param.rpartition(".")[2] in error_of(response)["param"]


@pytest.mark.parametrize("field", ["model", "messages"])
async def test_null_is_no_value_where_one_is_needed(server: Served, field: str) -> None:
    response = await post(server, **{"messages": [user(QUESTION, IMAGE)], field: None})
    assert (response.status_code, error_of(response)["message"]) == (400, f"{field} is missing")


WITHOUT_EFFECT: list[dict[str, Any]] = [
    {"user": 3, "metadata": {"a": 1, "b": ["c"]}, "store": "no", "service_tier": {"x": 1}},
    {"safety_identifier": 7, "prompt_cache_key": ["x"], "parallel_tool_calls": 1},
    {"messages": [user(QUESTION, IMAGE, id=5, name=7, cache_control={"type": "ephemeral"})]},
    {"messages": [user({**QUESTION, "id": "part-1"}, {**IMAGE, "id": 2, "cache_control": {"type": "ephemeral"}})]},
    {"messages": [user(QUESTION, {"type": "image_url", "image_url": {"url": PICTURE, "detail": "original"}})]},
    {"stream_options": {"include_obfuscation": 1, "continuous_usage_stats": "yes"}},
]


@pytest.mark.parametrize("fields", WITHOUT_EFFECT, ids=lambda fields: str(fields)[:60])
async def test_a_field_without_effect_is_refused_for_no_value(server: Served, fields: dict[str, Any]) -> None:
    response = await post(server, **{"messages": [user(QUESTION, IMAGE)], **fields})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("value", [40, 40.0, "40"])
async def test_a_sampling_field_that_is_not_honoured_is_a_warning_in_any_spelling(server: Served, value: Any) -> None:
    warnings = (await post(server, messages=[user(QUESTION, IMAGE)], top_k=value)).json()["cos"]["warnings"]
    assert any(warning.startswith("top_k was ignored") for warning in warnings)


def good_answers_of_bad_steps(question: Question, written: str) -> float:
    del question
    return 0.9 if "<|answer_end|>" in written else 0.2


@pytest.mark.parametrize(
    ("aggregation", "is_told"), [("min", True), ("prod", True), ("mean", None), ("cos", False), ("last", False)]
)
async def test_a_reply_of_low_confidence_says_so_however_it_is_measured(aggregation: str, is_told: bool | None) -> None:
    async with served(Script(judge=good_answers_of_bad_steps)) as server:
        fields = {"messages": [user(QUESTION, IMAGE)], "seed": 0, "cos": {"aggregation": aggregation}}
        reply = (await post(server, **fields)).json()["cos"]
    told = any(warning.startswith(f"the confidence is {reply['confidence']:.2f} of 1") for warning in reply["warnings"])
    assert told == (reply["confidence"] < 0.5)
    assert is_told is None or told == is_told
