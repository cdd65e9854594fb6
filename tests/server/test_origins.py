"""Pages in a browser: those of this machine and those that were named may use a server, no other page may."""

from collections.abc import Sequence
from typing import Any

import pytest

from cos.server.flags import load_settings
from cos.server.origins import Origins
from cos.server.settings import Settings
from tests.server.support import body, error_of, listening, picture_bytes, served

GETS = ("/metrics", "/health", "/ready", "/version", "/v1/models", "/v1/strategies", "/docs", "/openapi.json")
FOREIGN_PAGES = (
    "https://evil.example",
    "http://evil.example:8000",
    "null",
    "http://localhost.evil.example",
    "http://127.0.0.1.evil.example",
    "http://evil.example/localhost",
    "http://localhost@evil.example",
    "file://",
    "chrome-extension://abc",
    "",
)
OWN_PAGES = (
    "http://localhost",
    "http://localhost:3000",
    "http://127.0.0.1:8000",
    "https://[::1]:1",
    "HTTP://LOCALHOST:2",
)
FOREIGN_HOSTS = (
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "10.0.0.7:8000",
    "box",
    "[::2]:8000",
    "@",
)
OWN_HOSTS = ("localhost", "localhost:8000", "LOCALHOST:9", "localhost.:9", "127.0.0.1:8000", "[::1]:8000", "127.8.8.8")


def preflight(origin: str, **more: str) -> dict[str, str]:
    """What a browser asks before a page of this origin may post JSON with a key."""
    return {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
        **more,
    }


@pytest.mark.parametrize("origin", FOREIGN_PAGES)
async def test_a_foreign_page_is_refused_on_every_path_by_a_sentence_that_names_the_flag(origin: str) -> None:
    async with served() as server:
        data, files = {"question": "Q?"}, {"image": picture_bytes()}
        replies = [
            await server.http.post("/solve", headers={"Origin": origin}, data=data, files=files),
            await server.http.post("/v1/chat/completions", headers={"Origin": origin}, json={}),
            await server.http.options("/solve", headers=preflight(origin)),
            *[await server.http.get(path, headers={"Origin": origin}) for path in GETS],
        ]
        assert server.policy.in_flight == 0
        assert await server.counted("rejected") == 2
    for reply in replies:
        assert reply.status_code == 403
        error = error_of(reply)
        assert error["code"] == "foreign_request"
        assert f"--allowed-origins {origin}" in error["message"]
        assert "access-control-allow-origin" not in reply.headers
        assert reply.headers["X-Request-Id"]


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
async def test_a_foreign_name_is_refused_on_every_path_by_a_sentence_that_names_the_flag(host: str) -> None:
    async with served() as server:
        asked = await server.http.post("/solve", headers={"Host": host}, json=body())
        replies = [asked, *[await server.http.get(path, headers={"Host": host}) for path in GETS]]
    for reply in replies:
        assert reply.status_code == 403
        assert "--allowed-hosts" in error_of(reply)["message"]
        assert repr(host) in error_of(reply)["message"]


@pytest.mark.parametrize("origin", OWN_PAGES)
async def test_a_page_of_this_machine_may_ask_and_read_the_reply(origin: str) -> None:
    async with served() as server:
        reply = await server.http.post("/solve", headers={"Origin": origin}, json=body())
        asked_first = await server.http.options("/solve", headers=preflight(origin))
    assert reply.status_code == asked_first.status_code == 200
    assert reply.headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize("host", OWN_HOSTS)
async def test_a_server_answers_to_every_name_of_its_machine(host: str) -> None:
    async with served() as server:
        assert (await server.http.get("/version", headers={"Host": host})).status_code == 200


async def test_clients_that_are_no_browsers_send_no_origin_and_are_let_in() -> None:
    async with listening() as server:
        reply = await server.solve()
    assert reply.status_code == 200
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize(
    "allowed", [("https://app.example",), ("https://other.example", "https://app.example"), ("*",)]
)
async def test_a_page_that_was_named_gets_its_preflight_its_replies_and_its_errors(allowed: Sequence[str]) -> None:
    page = {"Origin": "https://app.example"}
    async with served(allowed_origins=allowed, api_key="secret") as server:
        asked_first = await server.http.options("/v1/chat/completions", headers=preflight("https://app.example"))
        unknown = await server.http.post("/solve", headers=page, json=body())
        key = {"Authorization": "Bearer secret"}
        known = await server.http.post("/solve", headers={**page, **key}, json=body())
        wrong = await server.http.post("/solve", headers={**page, **key}, json=body(n=0))
        streamed = await server.http.post("/solve", headers={**page, **key}, json=body(stream=True))
        foreign = await server.http.get("/health", headers={"Origin": "https://evil.example"})
    assert (asked_first.status_code, unknown.status_code, known.status_code) == (200, 401, 200)
    assert (wrong.status_code, streamed.status_code) == (422, 200)
    assert foreign.status_code == (200 if "*" in allowed else 403)
    for reply in (asked_first, unknown, known, wrong, streamed):
        assert reply.headers["access-control-allow-origin"] == "https://app.example"
        assert "Origin" in reply.headers["vary"]
    assert "POST" in asked_first.headers["access-control-allow-methods"]
    assert asked_first.headers["access-control-allow-headers"] == "authorization,content-type"
    assert "X-Request-Id" in known.headers["access-control-expose-headers"]


@pytest.mark.parametrize(("flag", "held"), [("null", True), ("https://app.example", False)])
async def test_an_origin_that_is_not_told_is_let_in_where_it_was_named(flag: str, held: bool) -> None:
    async with served(allowed_origins=(flag,)) as server:
        reply = await server.http.get("/version", headers={"Origin": "null"})
    assert (reply.status_code == 200) is held


async def test_a_server_answers_to_the_names_it_was_given_and_still_to_those_of_its_machine() -> None:
    async with served(allowed_hosts=("cos.example",), host="192.168.1.5") as server:
        found = {
            host: (await server.http.get("/version", headers={"Host": host})).status_code
            for host in ("cos.example", "cos.example:443", "localhost", "192.168.1.5:8000", "evil.example", "10.0.0.1")
        }
    assert found == {
        "cos.example": 200,
        "cos.example:443": 200,
        "localhost": 200,
        "192.168.1.5:8000": 200,
        "evil.example": 403,
        "10.0.0.1": 403,
    }
    async with served(allowed_hosts=("*",)) as server:
        assert (await server.http.get("/version", headers={"Host": "any.example"})).status_code == 200


@pytest.mark.parametrize("listens", ["0.0.0.0", "::"])
async def test_a_server_open_to_the_network_answers_to_addresses_and_names_nobody_can_own(listens: str) -> None:
    async with served(host=listens) as server:
        found = {
            host: (await server.http.get("/version", headers={"Host": host})).status_code
            for host in ("192.168.1.5:8000", "[fe80::1]:8000", "cos-serve:8000", "localhost", "evil.example:8000", "")
        }
    assert found == {
        "192.168.1.5:8000": 200,
        "[fe80::1]:8000": 200,
        "cos-serve:8000": 200,
        "localhost": 200,
        "evil.example:8000": 403,
        "": 403,
    }


async def test_the_pages_a_server_serves_itself_may_use_it_under_whatever_name_it_answers_to() -> None:
    async with served(host="0.0.0.0") as server:
        for host in ("192.168.1.5:8000", "cos-serve:8000"):
            own = {"Host": host, "Origin": f"http://{host}"}
            assert (await server.http.post("/solve", headers=own, json=body())).status_code == 200
        led_here = {"Host": "evil.example:8000", "Origin": "http://evil.example:8000"}
        assert (await server.http.post("/solve", headers=led_here, json=body())).status_code == 403
        other = {"Host": "192.168.1.5:8000", "Origin": "http://192.168.1.6:8000"}
        assert (await server.http.post("/solve", headers=other, json=body())).status_code == 403


def test_origins_and_hosts_come_from_repeated_flags_or_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = load_settings(
        [
            "--allowed-origins",
            "https://a.example/",
            "--allowed-origins",
            "http://B.example:3",
            "--allowed-hosts",
            "[::2]",
        ]
    )
    assert flags.allowed_origins == ("https://a.example", "http://b.example:3")
    assert flags.allowed_hosts == ("::2",)
    assert load_settings(["--allowed-origins", "*"]).allowed_origins == ("*",)
    assert load_settings(["--allowed-origins", '["*", "null"]']).allowed_origins == ("*", "null")
    monkeypatch.setenv("COS_ALLOWED_ORIGINS", "https://a.example, null")
    monkeypatch.setenv("COS_ALLOWED_HOSTS", "a.example,b")
    found = load_settings([])
    assert (found.allowed_origins, found.allowed_hosts) == (("https://a.example", "null"), ("a.example", "b"))


@pytest.mark.parametrize(
    "bad",
    [
        {"allowed_origins": "app.example"},
        {"allowed_origins": "https://app.example/page"},
        {"allowed_origins": "https://"},
        {"allowed_hosts": "https://app.example"},
        {"allowed_hosts": "app.example:80"},
    ],
)
def test_what_is_no_origin_and_no_name_is_refused_at_the_start(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is no (origin|host name); give"):
        Settings(policy="scripted", **bad)


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "http://[evil]"])
def test_an_origin_that_cannot_be_read_is_foreign(origin: str) -> None:
    assert not Origins([]).answer_to(origin, "localhost")
