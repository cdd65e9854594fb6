"""Bodies as clients send them, unmodified but for the picture: each gets its answer, or a sentence that helps."""

import asyncio
import json
import re
import sys
from dataclasses import replace
from typing import Any

import pytest

from cos.engines.scripted import Script
from cos.search.prompt import Prompt
from tests.real.server_process import ROOT, fenced_blocks
from tests.server.support import Served, data_uri, error_of, listening, picture_bytes, served, sse_events

QUESTION = "What is the total of all rows?"
URL = {"url": data_uri(picture_bytes())}
PICTURE = {"type": "image_url", "image_url": URL}
TEXT = {"type": "text", "text": QUESTION}
TOOLS = [
    {
        "type": "function",
        "function": {"name": f"tool_{number}", "description": "", "parameters": {"type": "object", "properties": {}}},
    }
    for number in range(36)
]
ATTACHED = {
    "type": "text",
    "text": '<attached_files>\n<file type="image" id="5350908a" url="5350908a" content_type="image/png" '
    'name="ledger.png"/>\n</attached_files>\n\n',
}

GRADIO: dict[str, Any] = {
    "model": "scripted",
    "stream": True,
    "messages": [{"role": "user", "content": [PICTURE]}, {"role": "user", "content": [TEXT]}],
}
GRADIO_AFTER_HELLO: dict[str, Any] = {
    **GRADIO,
    "messages": [
        {"role": "user", "metadata": None, "options": None, "content": [{"type": "text", "text": "hello"}]},
        *GRADIO["messages"],
    ],
}
OPEN_WEBUI: dict[str, Any] = {
    "stream": True,
    "model": "scripted",
    "messages": [{"role": "user", "content": [ATTACHED, TEXT, PICTURE]}],
    "tools": TOOLS,
}
OPEN_WEBUI_AFTER_HELLO: dict[str, Any] = {
    **OPEN_WEBUI,
    "messages": [{"role": "user", "content": "hello"}, *OPEN_WEBUI["messages"]],
}
ANSWERED: dict[str, tuple[dict[str, Any], set[str]]] = {
    "gradio": (GRADIO, set()),
    "gradio after hello": (GRADIO_AFTER_HELLO, {"the message before that of the picture"}),
    "open webui": (OPEN_WEBUI, {"the client's note before the question"}),
    "open webui after hello": (
        OPEN_WEBUI_AFTER_HELLO,
        {"the message before that of the picture", "the client's note before the question"},
    ),
}


def cos_of(text: str) -> dict[str, Any]:
    """The search's own reply in a stream."""
    frames = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
    return next(cos for frame in frames if (cos := json.loads(frame).get("cos")))


def left_out(cos: dict[str, Any]) -> set[str]:
    return {warning.partition(" was left out")[0] for warning in cos["warnings"] if " was left out" in warning}


@pytest.mark.parametrize("name", ANSWERED)
async def test_a_policy_that_knows_questions_alone_gets_the_question_alone(server: Served, name: str) -> None:
    server.app.state.service = replace(server.service, takes_system_text=False)
    body, without = ANSWERED[name]
    response = await server.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    cos = cos_of(response.text)
    assert cos["question"] == QUESTION
    assert left_out(cos) == without


@pytest.mark.parametrize("name", ANSWERED)
async def test_another_policy_gets_every_word(server: Served, name: str) -> None:
    body = ANSWERED[name][0]
    response = await server.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    cos = cos_of(response.text)
    assert ("hello" in cos["question"]) == ("hello" in name)
    assert ("<attached_files>" in cos["question"]) == ("webui" in name)
    assert left_out(cos) == set()


@pytest.mark.parametrize(
    "question",
    ["<b>How many rows?</b>", "Is <b>this</b> right?", "<b>Row 1", "<x>a</x>\n<y>b</y>", "Look.\n<q>How many?</q>"],
)
async def test_markup_of_the_user_stays_where_no_question_follows_it(server: Served, question: str) -> None:
    server.app.state.service = replace(server.service, takes_system_text=False)
    body = {
        "model": "scripted",
        "messages": [{"role": "user", "content": [{"type": "text", "text": question}, PICTURE]}],
    }
    cos = (await server.http.post("/v1/chat/completions", json=body)).json()["cos"]
    assert cos["question"] == ("<y>b</y>" if question.startswith("<x>") else question)


async def test_a_question_before_its_picture_is_the_question(server: Served) -> None:
    server.app.state.service = replace(server.service, takes_system_text=False)
    turns = [{"role": "user", "content": QUESTION}, {"role": "user", "content": [PICTURE]}]
    reply = await server.http.post("/v1/chat/completions", json={"model": "scripted", "messages": turns})
    assert reply.json()["cos"]["question"] == QUESTION


@pytest.mark.parametrize("place", ["request", "message", "part", "image"])
async def test_an_unknown_field_asks_for_nothing_when_it_is_null_and_is_refused_otherwise(
    server: Served, place: str
) -> None:
    for value, status in ((None, 200), ("x", 400)):
        extra = {name: {"novel": value} if name == place else {} for name in ("request", "message", "part", "image")}
        part = {"type": "image_url", "image_url": {**URL, **extra["image"]}, **extra["part"]}
        messages = [{"role": "user", "content": [part, TEXT], **extra["message"]}]
        body = {"model": "scripted", "messages": messages, **extra["request"]}
        response = await server.http.post("/v1/chat/completions", json=body)
        assert response.status_code == status, response.text
        if value:
            assert "novel" in error_of(response)["message"]


async def post(server: Served, **fields: Any) -> Any:
    """The response to a chat completion with these fields."""
    return await server.http.post("/v1/chat/completions", json={"model": "scripted", **fields})


def user(*content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else list(content), **more}


async def test_open_webuis_hello_with_its_tools_is_told_what_this_model_needs() -> None:
    async with served(image_required=True) as server:
        response = await post(server, stream=True, messages=[user("hello")], tools=TOOLS)
    error = error_of(response)
    assert response.status_code == 400
    assert error["message"].startswith("this model answers questions about a picture, and there is none: attach")
    assert "tools" not in error["message"]


async def test_open_webuis_question_with_a_picture_gets_its_answer(server: Served) -> None:
    response = await post(
        server,
        stream=True,
        stream_options={"include_usage": True},
        messages=[{"role": "system", "content": "You are a helpful assistant."}, user(TEXT, PICTURE)],
        tools=TOOLS,
    )
    chunks = [event.data for event in sse_events(response.text)][:-1]
    content = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    reply = next(chunk["cos"] for chunk in chunks if "cos" in chunk)
    assert response.status_code == 200
    assert content == reply["answer"] != ""
    assert any(warning.startswith("tools was ignored") for warning in reply["warnings"])


async def test_a_second_question_in_the_same_chat_is_answered(server: Served) -> None:
    turns = [user(TEXT, PICTURE), {"role": "assistant", "content": "15"}, user("and how many columns?")]
    response = await post(server, messages=turns)
    assert response.status_code == 200, response.text
    assert response.json()["cos"]["question"] == "and how many columns?"


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": TOOLS, "tool_choice": "required"},
        {"n": 2},
        {"logprobs": True},
        {"stop": ["\n"]},
        {"response_format": {"type": "json_object"}},
        {"messages": [user(TEXT, {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}})]},
        {"messages": [user("hello"), {"role": "assistant", "content": "hello"}]},
        {"cos": {"strategy": "bem"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
async def test_no_refusal_is_a_422_which_litellm_would_turn_into_an_empty_reply(
    server: Served, fields: dict[str, Any], stream: bool
) -> None:
    response = await post(server, **{"messages": [user(TEXT, PICTURE)], "stream": stream, **fields})
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"
    assert {"message", "type", "param", "code"} == set(error_of(response))


NULLS: list[dict[str, Any]] = [
    {"audio": None, "web_search_options": None, "a_field_of_next_year": None},
    {"cos": None},
    {"stream_options": {"include_usage": None}},
    {"stream_options": {"a_field_of_next_year": None}},
    {"messages": [user(TEXT, PICTURE, tool_calls=None, refusal=None)]},
    {"messages": [user({**TEXT, "annotations": None}, {**PICTURE, "text": None})]},
    {"messages": [user(TEXT, {"type": "image_url", "image_url": {**URL, "format": None}})]},
    {"cos": {"strategy": None}},
]


@pytest.mark.parametrize("fields", NULLS, ids=lambda fields: str(fields)[:60])
async def test_null_asks_for_nothing_whatever_the_field(server: Served, fields: dict[str, Any]) -> None:
    response = await post(server, **{"messages": [user(TEXT, PICTURE)], **fields})
    assert response.status_code == 200, response.text
    assert not any("ignored" in warning for warning in response.json()["cos"]["warnings"])


@pytest.mark.parametrize(
    ("cos", "param"), [({"temprature": 1}, "temprature"), ({"budget": {"tokns": 5}}, "budget.tokns")]
)
async def test_a_misspelt_field_of_the_search_stays_an_error(server: Served, cos: dict[str, Any], param: str) -> None:
    response = await post(server, messages=[user(TEXT, PICTURE)], cos=cos)
    assert response.status_code == 400
    assert param.rpartition(".")[2] in error_of(response)["param"]


@pytest.mark.parametrize("field", ["model", "messages"])
async def test_null_is_no_value_where_one_is_needed(server: Served, field: str) -> None:
    response = await post(server, **{"messages": [user(TEXT, PICTURE)], field: None})
    assert (response.status_code, error_of(response)["message"]) == (400, f"{field} is missing")


WITHOUT_EFFECT: list[dict[str, Any]] = [
    {"user": 3, "metadata": {"a": 1, "b": ["c"]}, "store": "no", "service_tier": {"x": 1}},
    {"safety_identifier": 7, "prompt_cache_key": ["x"], "parallel_tool_calls": 1},
    {"messages": [user(TEXT, PICTURE, id=5, name=7, cache_control={"type": "ephemeral"})]},
    {"messages": [user({**TEXT, "id": "part-1"}, {**PICTURE, "id": 2, "cache_control": {"type": "ephemeral"}})]},
    {"messages": [user(TEXT, {"type": "image_url", "image_url": {**URL, "detail": "original"}})]},
    {"stream_options": {"include_obfuscation": 1, "continuous_usage_stats": "yes"}},
]


@pytest.mark.parametrize("fields", WITHOUT_EFFECT, ids=lambda fields: str(fields)[:60])
async def test_a_field_without_effect_is_refused_for_no_value(server: Served, fields: dict[str, Any]) -> None:
    response = await post(server, **{"messages": [user(TEXT, PICTURE)], **fields})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("value", [40, 40.0, "40"])
async def test_a_sampling_field_that_is_not_honoured_is_a_warning_in_any_spelling(server: Served, value: Any) -> None:
    warnings = (await post(server, messages=[user(TEXT, PICTURE)], top_k=value)).json()["cos"]["warnings"]
    assert any(warning.startswith("top_k was ignored") for warning in warnings)


def good_answers_of_bad_steps(prompt: Prompt, written: str) -> float:
    del prompt
    return 0.9 if "<|answer_end|>" in written else 0.2


@pytest.mark.parametrize(
    ("aggregation", "is_told"), [("min", True), ("prod", True), ("mean", None), ("cos", False), ("last", False)]
)
async def test_a_reply_of_low_confidence_says_so_however_it_is_measured(aggregation: str, is_told: bool | None) -> None:
    async with served(Script(judge=good_answers_of_bad_steps)) as server:
        fields = {"messages": [user(TEXT, PICTURE)], "seed": 0, "cos": {"aggregation": aggregation}}
        reply = (await post(server, **fields)).json()["cos"]
    told = any(warning.startswith(f"the confidence is {reply['confidence']:.2f} of 1") for warning in reply["warnings"])
    assert told == (reply["confidence"] < 0.5)
    assert is_told is None or told == is_told


SNIPPETS = fenced_blocks(ROOT / "docs" / "clients.md", "python")


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["cos", "scores", "openai", "conversation", "litellm", "gradio"])
async def test_a_documented_snippet_works_where_its_package_is_installed(snippet: str) -> None:
    packages = re.findall(r"^(?:import|from) (cos|openai|litellm|gradio)", snippet, re.MULTILINE)
    assert packages
    for package in packages:
        pytest.importorskip(package)
    async with listening() as server:
        snippet = snippet.replace("http://127.0.0.1:8000", str(server.http.base_url).rstrip("/"))
        snippet = snippet.replace("cos-tiny", "scripted").replace(
            "page.launch(", "page.launch(prevent_thread_lock=True, "
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", snippet, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert output.strip()


async def test_the_rollouts_of_the_page_are_scored_by_its_command() -> None:
    (command,) = [block for block in fenced_blocks(ROOT / "docs" / "clients.md", "sh") if "/v1/rerank" in block]
    async with listening() as server:
        command = command.replace("http://127.0.0.1:8000", str(server.http.base_url).rstrip("/"))
        process = await asyncio.create_subprocess_exec("bash", "-c", command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
    results = json.loads(output)["results"]
    assert {result["index"] for result in results} == {0, 1}
    assert [len(result["steps"]) for result in results] == [2, 2]
    assert {result["answer"]["text"] for result in results} == {"592", "562"}
