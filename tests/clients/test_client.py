"""The Python clients against a server that is a function."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from cos.clients import AsyncClient, Client, CosClientError, Solution, protocol
from cos.clients.errors import BadReply, BadRequest, ServerBusy, ServerFault, ServerUnreachable, Unauthorized
from cos.wire.events import Answered, Event, Opened, Proposed, Scored, Selected

Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler, api_key: str | None = None) -> Client:
    return Client(api_key=api_key, transport=httpx.MockTransport(handler))


def told(status: int, kind: str, code: str = "some_code", **headers: str) -> Handler:
    """A server that answers with an error."""
    body = {"error": {"message": "it is so", "type": kind, "param": "n", "code": code}}
    return lambda request: httpx.Response(status, json=body, headers=headers)


def stream_of(solution: dict[str, Any]) -> bytes:
    """A whole stream, with a heartbeat, an event of the future, and a line end that only text knows."""
    events: list[tuple[str, Any]] = [
        ("opened", {"id": "solve-1", "strategy": "best_of_n", "parameters": {}, "prompt_tokens": 7}),
        ("candidate", {**solution["tree"][0], "text": "one\u2028two"}),
        ("novelty", {"a": 1}),
        ("scored", {"path": [0], "score": 0.95}),
        ("selected", {"kept": [[0, 0]], "pruned": [[1, 0]]}),
        ("answered", solution),
    ]
    frames = [
        f"id: {number}\nevent: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
        for number, (name, data) in enumerate(events)
    ]
    return "".join([": searching\n\n", *frames]).encode()


def test_solve_sends_what_was_asked_and_reads_the_solution(png: bytes, solution: dict[str, Any]):
    seen: list[httpx.Request] = []

    def server(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={**solution, "new_field": 1})

    with client(server, api_key="secret") as asking:
        found = asking.solve(png, "What is the total?", strategy="beam", n=4, strategy_params={"depth": 2})
    body = json.loads(seen[0].content)
    assert seen[0].url.path == "/solve"
    assert seen[0].headers["authorization"] == "Bearer secret"
    assert base64.b64decode(body.pop("image")) == png
    assert body == {
        "question": "What is the total?",
        "strategy": "beam",
        "n": 4,
        "depth": 2,
        "seed": 0,
        "stream": False,
    }
    assert (found.answer, found.steps[0].fields["name"], found.usage.tokens_kept) == ("12", "Read row 0", 18)
    assert json.loads(found.model_dump_json())["new_field"] == 1


def test_solutions_are_frozen(solution: dict[str, Any]):
    found = Solution.model_validate(solution)
    with pytest.raises(ValueError, match="frozen"):
        found.answer = "13"  # pyright: ignore[reportAttributeAccessIssue]


def test_every_kind_of_image_becomes_the_same_picture(png: bytes, png_path: str):
    uri = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    assert protocol.encode_image(uri) == uri
    assert {protocol.encode_image(image) for image in (png, png_path, Path(png_path))} == {
        base64.b64encode(png).decode()
    }
    with Image.open(io.BytesIO(base64.b64decode(protocol.encode_image(Image.new("RGB", (8, 8)))))) as opened:
        assert opened.size == (8, 8)
    assert "image" not in json.loads(protocol.solve_body(None, "How many?", {}, stream=False))


def test_several_pictures_and_the_conversation_are_sent(png: bytes, png_path: str):
    history = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello!"}]
    body = json.loads(protocol.solve_body([png, png_path], "Which?", {"history": history}, stream=False))
    assert "image" not in body
    assert [base64.b64decode(image) for image in body["images"]] == [png, png]
    assert body["history"] == history


@pytest.mark.parametrize("path", ["no/such.png", ".", "https://example.org/a.png"])
def test_an_image_that_cannot_be_read_is_named(path: str):
    with pytest.raises(BadRequest, match="image") as caught:
        protocol.encode_image(path)
    assert path in str(caught.value)
    assert caught.value.param == "image"


def test_an_empty_file_is_named(tmp_path: Path):
    (tmp_path / "empty.png").touch()
    with pytest.raises(BadRequest, match=r"empty\.png"):
        protocol.encode_image(tmp_path / "empty.png")


def test_values_that_json_lacks_are_refused(png: bytes):
    for options in ({"temperature": float("nan")}, {"strategy_params": {"a": object()}}):
        with pytest.raises(BadRequest, match="JSON"):
            protocol.solve_body(png, "?", options, stream=False)  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadRequest, match="JSON"):
        protocol.solve_body(png, "\ud800", {}, stream=False)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://host:port", "/solve"])
def test_an_address_that_is_none_is_named(url: str):
    with pytest.raises(BadRequest, match="url"):
        Client(url)


@pytest.mark.parametrize(
    ("server", "error"),
    [
        (told(422, "invalid_request_error"), BadRequest),
        (told(401, "authentication_error"), Unauthorized),
        (told(429, "rate_limit_error", **{"Retry-After": "3"}), ServerBusy),
        (told(503, "server_error", "shutting_down", **{"Retry-After": "3"}), ServerBusy),
        (told(502, "server_error"), ServerFault),
    ],
)
def test_what_a_server_tells_becomes_a_typed_error(server: Handler, error: type[CosClientError], png: bytes):
    with client(server) as asking:
        with pytest.raises(error, match="it is so") as caught:
            asking.solve(png, "?")
        with pytest.raises(error, match="it is so"):
            list(asking.stream(png, "?"))
    if isinstance(caught.value, BadRequest):
        assert (caught.value.param, caught.value.code) == ("n", "some_code")
    if isinstance(caught.value, ServerBusy):
        assert caught.value.retry_after_s == 3


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(404, text="<html>nginx</html>"),
        httpx.Response(404, json={"detail": "Not Found"}),
        httpx.Response(200, json={"hello": "world"}),
        httpx.Response(302, headers={"Location": "/login"}),
    ],
)
def test_another_server_is_told_from_ours(response: httpx.Response, png: bytes):
    with client(lambda request: response) as asking, pytest.raises(BadReply, match="check the URL"):
        asking.solve(png, "?")


@pytest.mark.parametrize("failure", [httpx.ConnectError, httpx.ReadTimeout, httpx.ReadError])
def test_a_connection_that_fails_names_the_server(failure: type[httpx.TransportError], png: bytes):
    def server(request: httpx.Request) -> httpx.Response:
        raise failure("no", request=request)

    with client(server) as asking:
        assert not asking.is_up()
        with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:8000"):
            asking.solve(png, "?")


def test_only_a_cos_server_counts_as_up():
    assert client(lambda request: httpx.Response(200, json={"data": []})).is_up()
    assert client(told(401, "authentication_error", "invalid_api_key")).is_up()
    assert not client(lambda request: httpx.Response(404)).is_up()
    assert not client(lambda request: httpx.Response(401, text="who are you")).is_up()


def test_a_stream_is_told_event_by_event(png: bytes, solution: dict[str, Any]):
    def server(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.content)["stream"] is True
        return httpx.Response(200, content=stream_of(solution))

    with client(server) as asking:
        events = list(asking.stream(png, "?"))
    check_events(events)


def check_events(events: list[Event]) -> None:
    assert [type(event) for event in events] == [Opened, Proposed, Scored, Selected, Answered]
    proposed, answered = events[1], events[-1]
    assert isinstance(proposed, Proposed)
    assert proposed.candidate.text == "one\u2028two"
    assert isinstance(answered, Answered)
    assert answered.solution.answer == "12"


def test_a_stream_may_be_cut_anywhere_on_its_way(solution: dict[str, Any]):
    whole = stream_of(solution)
    for size in (1, 7, 1000):
        reader = protocol.EventReader()
        chunks = [whole[start : start + size] for start in range(0, len(whole), size)]
        check_events([event for chunk in chunks for event in reader.feed(chunk)])
        reader.close()


def test_a_stream_that_ends_early_or_badly_is_an_error(png: bytes, solution: dict[str, Any]):
    cut = stream_of(solution).partition(b"id: 5")[0]
    told = {"error": {"message": "an engine has died", "type": "server_error", "param": None, "code": "engine_dead"}}
    cases: list[tuple[bytes, type[CosClientError], str]] = [
        (cut, BadReply, "ended before the answer"),
        (cut + f"event: error\ndata: {json.dumps(told)}\n\n".encode(), ServerFault, "an engine has died"),
        (b"event: scored\ndata: {]\n\n", BadReply, "'scored' event"),
    ]
    for content, error, message in cases:
        replies = client(lambda request, content=content: httpx.Response(200, content=content))
        with replies as asking, pytest.raises(error, match=message):
            list(asking.stream(png, "?"))


async def test_the_async_client_is_the_same(png: bytes, solution: dict[str, Any]):
    def server(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200)
        streams = json.loads(request.content)["stream"]
        return httpx.Response(200, content=stream_of(solution) if streams else json.dumps(solution))

    async with AsyncClient(transport=httpx.MockTransport(server)) as asking:
        assert await asking.is_up()
        assert (await asking.solve(png, "?")).answer == "12"
        check_events([event async for event in asking.stream(png, "?")])
    async with AsyncClient(transport=httpx.MockTransport(told(429, "rate_limit_error"))) as asking:
        with pytest.raises(ServerBusy):
            _ = [event async for event in asking.stream(png, "?")]
