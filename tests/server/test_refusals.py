"""Bad requests: each is refused with a sentence that names the field, and harms nobody else."""

import base64
import io
import json
import zlib
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.server.support import Served, body, data_uri, error_of, picture_bytes, served


def big_png(width: int, height: int) -> bytes:
    """A small file of many pixels."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG", optimize=True)
    return file.getvalue()


def declared_png(width: int, height: int) -> bytes:
    """A PNG header that declares this size, with nothing behind it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + bytes((8, 2, 0, 0, 0))) + pixels + chunk(b"IEND", b"")


BAD_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"question": ""}, "question", "empty"),
    ({"question": " \n\t"}, "question", "empty"),
    ({"question": "x" * 20_001}, "question", "20001 characters, the limit is 20000"),
    ({"question": "a\0b"}, "question", "NUL"),
    ({"question": 7}, "question", "string"),
    ({"question": None}, "question", "missing"),
    ({"choices": ["cat"]}, "choices", "1 choices; give 2 to 26"),
    ({"choices": ["x"] * 27}, "choices", "27 choices"),
    ({"choices": ["cat", " "]}, "choices", "choice 2 is empty"),
    ({"choices": ["cat", "dog", "cat"]}, "choices", "'cat', is there twice"),
    ({"choices": ["cat", "x" * 501]}, "choices", "501 characters, the limit is 500"),
    ({"choices": "cat"}, "choices", "valid array"),
    ({"n": 0}, "n", "greater than or equal to 1"),
    ({"n": -1}, "n", "greater than or equal to 1"),
    ({"n": 65}, "n", "n = 65 is above this server's limit of 64"),
    ({"n": 10**9}, "n", "1000000000"),
    ({"n": "8"}, "n", "integer"),
    ({"n": True}, "n", "integer"),
    ({"n": 1.5}, "n", "integer"),
    ({"strategy": "bem"}, "strategy", "available: auto"),
    ({"strategy": "greedy"}, "n", "has no parameter 'n'"),
    ({"beam_width": 2}, "beam_width", "has no parameter 'beam_width'"),
    ({"strategy": "beam", "n": 2, "beam_width": 3}, "beam", "beam_width = 3 is more than n = 2"),
    ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
    ({"temperature": -0.1}, "temperature", "greater than or equal to 0"),
    ({"top_p": 0}, "top_p", "greater than 0"),
    ({"seed": -1}, "seed", "greater than or equal to 0"),
    ({"seed": 2**63}, "seed", "less than"),
    ({"step_tokens": 0}, "step_tokens", "greater"),
    ({"max_steps": 65}, "max_steps", "less"),
    ({"score": "vibes"}, "score", "'prm' or 'likelihood'"),
    ({"aggregation": "max"}, "aggregation", "'cos'"),
    ({"step_weight": 1.1}, "step_weight", "less"),
    ({"budget": {"tokens": 0}}, "budget.tokens", "greater"),
    ({"budget": {"tokens": 65_537}}, "budget.tokens", "--max-tokens-per-search"),
    ({"budget": {"seconds": 601}}, "budget.seconds", "--timeout-s"),
    ({"budget": {"token": 1}}, "budget.token", "unknown field"),
    ({"temprature": 1}, "temprature", "did you mean 'temperature'?"),
    ({"images": [data_uri(picture_bytes())]}, "images", "pictures are given in two fields"),
    ({"image": None, "images": [data_uri(picture_bytes()), "x"]}, "images[1]", "not base64"),
    ({"image": None, "images": [data_uri(picture_bytes())] * 9}, "images[8]", "9 pictures in the question"),
    ({"image": None, "images": [data_uri(big_png(4_000, 4_000))] * 2}, "images[1]", "32.0 megapixels together"),
    ({"history": [{"role": "tool", "content": "x"}]}, "history[0].role", "role 'tool' is not supported"),
    ({"history": [{"role": "assistant", "tool_calls": [{}]}]}, "history[0].content", "missing"),
    ({"history": [{"role": "user", "content": "a\0b"}]}, "history", "message 0 contains a NUL character"),
    (
        {"history": [{"role": "assistant", "content": [{"type": "image_url", "image_url": "x"}]}]},
        "history[0].content[0].image_url",
        "an image belongs in a user message",
    ),
    ({"image": "/etc/passwd"}, "image", "not base64"),
    ({"image": "not base64!"}, "image", "not base64"),
    ({"image": "data:image/png;base64"}, "image", "without a comma"),
    ({"image": "data:image/png,%89PNG"}, "image", "not base64"),
    ({"image": ""}, "image", "empty"),
    ({"image": data_uri(b"hello, I am no picture")}, "image", "not an image (expected PNG, JPEG, WEBP, GIF or BMP)"),
    ({"image": data_uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>")}, "image", "not an image"),
    ({"image": data_uri(picture_bytes(format="TIFF"))}, "image", "not an image"),
    ({"image": data_uri(picture_bytes(format="EPS"))}, "image", "not an image"),
    ({"image": data_uri(picture_bytes(200, 200, "JPEG")[:300])}, "image", "image"),
    ({"image": data_uri(picture_bytes()[:-30])}, "image", "broken"),
    ({"image": data_uri(big_png(10_000, 5_000))}, "image", "50.0 megapixels, the limit is 25"),
    ({"image": data_uri(declared_png(50_000, 50_000))}, "image", "megapixels, the limit is 25"),
    ({"image": data_uri(picture_bytes(1, 201))}, "image", "200 times"),
]

NEVER_FIELDS = (
    "chat_template",
    "mm_processor_kwargs",
    "cache_salt",
    "uuid",
    "guided_regex",
    "tools",
    "api_base",
    "kv_transfer_params",
    "logit_bias",
)


@pytest.mark.parametrize(("fields", "param", "told"), BAD_FIELDS, ids=lambda value: str(value)[:40])
async def test_a_bad_value_is_named_with_what_is_allowed(
    server: Served, fields: dict[str, Any], param: str, told: str
) -> None:
    given = {name: value for name, value in fields.items() if value is not None}
    good = {name: value for name, value in body().items() if name not in fields}
    response = await server.http.post("/solve", json={**good, **given})
    error = error_of(response)
    assert response.status_code == 422, error
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert told in error["message"]
    assert server.policy.most_in_flight == 0


@pytest.mark.parametrize("name", NEVER_FIELDS)
async def test_fields_that_reach_into_an_engine_do_not_exist(server: Served, name: str) -> None:
    for path, good, status in (
        ("/solve", body(), 422),
        ("/v1/chat/completions", {"model": "scripted", "messages": [{"role": "user", "content": "x"}]}, 400),
    ):
        response = await server.http.post(path, json={**good, name: {"a": 1}})
        assert response.status_code == status
        assert name in error_of(response)["message"]


@pytest.mark.parametrize("address", ["http://127.0.0.1/x.png", "https://example.com/x.png", "HTTP://x", "file:///etc"])
async def test_an_address_is_never_fetched(server: Served, address: str) -> None:
    error = error_of(await server.solve(image=address))
    assert error["code"] == "image_url_disabled"
    assert "data URI" in error["message"]


BAD_BODIES: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"{", 400),
    (b"null", 422),
    (b"[]", 422),
    (b'"x"', 422),
    (b"[" * 10_000, 400),
    (b"\xff\xfe", 400),
    (b'{"question": "\\ud800"}', 422),
    (b'{"question": "x", "temperature": NaN}', 422),
    (b'{"question": "x", "temperature": 1e400}', 422),
    (b'{"question": "x", "step_weight": Infinity}', 422),
]


@pytest.mark.parametrize(("content", "status"), BAD_BODIES, ids=lambda value: str(value)[:40])
async def test_a_body_that_cannot_be_read_is_refused(server: Served, content: bytes, status: int) -> None:
    response = await server.http.post("/solve", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == status, response.text
    error_of(response)


async def test_other_media_types_and_encodings_are_refused(server: Served) -> None:
    content = json.dumps(body()).encode()
    for headers in ({"Content-Type": "text/plain"}, {}, {"Content-Type": "application/x-www-form-urlencoded"}):
        assert (await server.http.post("/solve", content=content, headers=headers)).status_code == 415
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert (await server.http.post("/solve", content=content, headers=headers)).status_code == 415


async def test_bad_forms_are_refused(server: Served) -> None:
    picture = ("x.png", picture_bytes(), "image/png")
    two = await server.http.post("/solve", data={"question": "x"}, files=[("image", picture), ("image", picture)])
    elsewhere = await server.http.post("/solve", data={"question": "x"}, files={"file": picture})
    twice = await server.http.post("/solve", data={"question": ["x", "y"]}, files={"image": picture})
    many = await server.http.post("/solve", data={f"f{i}": "x" for i in range(100)}, files={"image": picture})
    no_boundary = await server.http.post("/solve", content=b"x", headers={"Content-Type": "multipart/form-data"})
    odd = await server.http.post("/solve", data={"question": "x", "n": "many"}, files={"image": picture})
    text = await server.http.post("/solve", data={"question": "x"}, files={"image": ("x.png", b"hello")})
    for response in (two, elsewhere, twice, many, no_boundary):
        assert response.status_code == 400, response.text
        error_of(response)
    assert (odd.status_code, error_of(odd)["param"]) == (422, "n")
    assert (text.status_code, error_of(text)["code"]) == (422, "invalid_image")


async def test_a_body_over_the_limit_is_cut_off() -> None:
    async def endless() -> AsyncGenerator[bytes]:
        for _ in range(100):
            yield b" " * 100_000

    async with served(max_body_mib=1) as server:
        large = await server.solve(image=base64.b64encode(b"x" * 2_000_000).decode())
        chunked = await server.http.post("/solve", content=endless(), headers={"Content-Type": "application/json"})
        form = await server.http.post("/solve", data={"question": "x"}, files={"image": b"x" * 2_000_000})
        for response in (large, chunked, form):
            assert response.status_code == 413, response.text
            assert error_of(response)["code"] == "body_too_large"
        assert (await server.solve()).status_code == 200


async def test_a_budget_too_small_for_one_candidate_says_so(server: Served) -> None:
    response = await server.solve(strategy="best_of_n", n=4, budget={"seconds": 1e-9})
    assert response.status_code == 504


async def test_a_budget_too_small_for_an_answer_gives_what_there_is(server: Served) -> None:
    reply = (await server.solve(strategy="best_of_n", n=4, budget={"tokens": 3})).json()
    assert (reply["answer"], reply["complete"], reply["finish_reason"]) == (None, False, "tokens")
    assert reply["usage"]["tokens_generated"] == 3


async def test_unknown_paths_and_methods_have_the_same_shape(server: Served) -> None:
    missing, wrong = await server.http.get("/nope"), await server.http.get("/solve")
    assert (missing.status_code, error_of(missing)["code"]) == (404, "not_found")
    assert (wrong.status_code, error_of(wrong)["code"]) == (405, "method_not_allowed")


async def test_the_server_serves_on_after_every_bad_request(server: Served) -> None:
    for fields, _, _ in BAD_FIELDS:
        await server.http.post("/solve", json={**body(), **fields})
        assert (await server.solve()).status_code == 200
    assert await server.counted("ok") + await server.counted("rejected") == 2 * len(BAD_FIELDS)


async def test_a_bug_is_a_500_of_our_shape_that_tells_nothing(server: Served) -> None:
    def burst(*_: object) -> str:
        raise RuntimeError("secret at 0xdeadbeef")

    async with served() as broken:
        broken.policy.script = type(broken.policy.script)(writer=burst)
        response: httpx.Response = await broken.solve()
        assert await broken.counted("failed") == 1
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.headers["x-request-id"]
