"""Bodies as clients send them, word for word but for the picture: each gets its answer, or a sentence that helps."""

import asyncio
import json
import re
import sys
from dataclasses import replace
from typing import Any

import pytest

from tests.real.server_process import ROOT, fenced_blocks
from tests.server.support import Served, data_uri, error_of, listening, picture_bytes

QUESTION = "What is the total of all rows?"
URL = {"url": data_uri(picture_bytes())}
PICTURE = {"type": "image_url", "image_url": URL}
TEXT = {"type": "text", "text": QUESTION}
TOOLS = [{"type": "function", "function": {"name": "get_current_timestamp", "parameters": {}}}]
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


@pytest.mark.parametrize("extra", [{"stop": ["x"]}, {"n": 2}, {"logprobs": True}], ids=str)
async def test_what_litellm_passes_on_is_refused_with_400_and_a_stream_is_no_exception(
    server: Served, extra: dict[str, Any]
) -> None:
    for stream in (False, True):
        response = await server.http.post("/v1/chat/completions", json={**GRADIO, **extra, "stream": stream})
        assert response.status_code == 400
        assert error_of(response)["param"] == next(iter(extra))


async def test_a_second_question_in_a_chat_is_told_to_start_a_new_one(server: Served) -> None:
    turns = [*OPEN_WEBUI["messages"], {"role": "assistant", "content": "592"}, {"role": "user", "content": "Sure?"}]
    response = await server.http.post("/v1/chat/completions", json={**OPEN_WEBUI, "messages": turns})
    assert response.status_code == 400
    assert "start a new chat" in error_of(response)["message"]


SNIPPETS = fenced_blocks(ROOT / "docs" / "clients.md", "python")


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["openai", "litellm", "gradio"])
async def test_a_documented_snippet_works_where_its_package_is_installed(snippet: str) -> None:
    packages = re.findall(r"^(?:import|from) (openai|litellm|gradio)", snippet, re.MULTILINE)
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
