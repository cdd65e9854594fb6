"""Running it: keys, ids, probes, metrics, models, strategies, the OpenAPI page."""

import re
from typing import get_args

import pytest
from fastapi.routing import APIRoute

from cos.search.strategies import menu
from cos.search.types import End, FinishReason
from cos.server.middleware import OPEN_PATHS
from tests.server.support import Served, body, error_of, served

KEYS = ["first-key", "second-key"]


async def test_every_path_but_the_open_ones_needs_a_key() -> None:
    async with served(api_key=KEYS) as server:
        routes = [route for route in server.app.routes if isinstance(route, APIRoute)]
        paths = [(method, route.path) for route in routes for method in route.methods]
        odd = [
            ("GET", path) for path in ("/nope", "//v1/models", "/v1/models/", "/health/", "/%2e/solve", "/metrics/x")
        ]
        for method, path in [*paths, *odd, ("OPTIONS", "/solve"), ("HEAD", "/v1/models")]:
            response = await server.http.request(method, path.replace("{name:path}", "x"))
            assert (response.status_code == 401) == (path not in OPEN_PATHS), (method, path)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", "Basic first-key", "first-key", "Bearer first-key2"])
async def test_a_wrong_key_is_a_401_that_says_what_to_send(header: str) -> None:
    async with served(api_key=KEYS) as server:
        response = await server.http.post("/solve", json=body(), headers={"Authorization": header})
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert error_of(response)["code"] == "invalid_api_key"
        assert (await server.http.post("/solve?api_key=first-key", json=body())).status_code == 401


@pytest.mark.parametrize("key", KEYS)
async def test_each_of_several_keys_opens_the_server(key: str) -> None:
    async with served(api_key=KEYS) as server:
        for scheme in ("Bearer", "bearer"):
            headers = {"Authorization": f"{scheme} {key}"}
            assert (await server.http.post("/solve", json=body(), headers=headers)).status_code == 200


async def test_a_forged_host_opens_nothing() -> None:
    async with served(api_key=KEYS, allowed_hosts=("*",)) as server:
        assert (await server.http.get("/v1/models", headers={"Host": "x/health?"})).status_code == 401


async def test_every_response_has_a_request_id(server: Served) -> None:
    for path in ("/health", "/nope", "/v1/models"):
        assert re.fullmatch("[0-9a-f]{32}", (await server.http.get(path)).headers["x-request-id"])
    given = await server.http.get("/health", headers={"X-Request-Id": "My_id-1"})
    assert given.headers["x-request-id"] == "My_id-1"


@pytest.mark.parametrize("value", ["a b", "x" * 65, "tcp://10.0.0.1", "{}", "ä"])
async def test_a_request_id_that_could_do_harm_is_replaced(server: Served, value: str) -> None:
    response = await server.http.get("/health", headers=[(b"X-Request-Id", value.encode())])
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


async def test_probes(server: Served) -> None:
    for path in ("/health", "/ready", "/ping"):
        response = await server.http.get(path)
        assert (response.status_code, response.content) == (200, b"")
    assert (await server.http.get("/version")).json()["version"]


async def test_the_model_is_listed_and_found_by_its_name() -> None:
    async with served(served_model_name="org/cos") as server:
        (listed,) = (await server.http.get("/v1/models")).json()["data"]
        assert (listed["id"], listed["object"]) == ("org/cos", "model")
        assert (await server.http.get("/v1/models/org/cos")).json() == listed
        missing = await server.http.get("/v1/models/other")
        assert (missing.status_code, error_of(missing)["code"]) == (404, "model_not_found")


async def test_strategies_are_listed_with_the_schemas_of_their_parameters(server: Served) -> None:
    listed = {entry["name"]: entry for entry in (await server.http.get("/v1/strategies")).json()["data"]}
    assert set(listed) == set(menu())
    assert listed["beam"]["params"]["properties"]["beam_width"]["description"]
    assert listed["auto"]["is_default"] is True
    assert all(entry["about"] for entry in listed.values())


async def test_the_openapi_page_describes_bodies_replies_and_errors(server: Served) -> None:
    page = (await server.http.get("/openapi.json")).json()
    schemas, solve = page["components"]["schemas"], page["paths"]["/solve"]["post"]
    assert set(solve["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert {"422", "429", "503"} <= set(solve["responses"])
    assert schemas["SolveRequest"]["properties"]["seed"]["description"]
    assert solve["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/Solution")
    assert set(schemas["Candidate"]["properties"]["end"]["enum"]) == set(get_args(End))
    assert set(schemas["Solution"]["properties"]["finish_reason"]["enum"]) == set(get_args(FinishReason))
    for reference in re.findall(r'"#/components/schemas/(\w+)"', (await server.http.get("/openapi.json")).text):
        assert reference in schemas
    assert (await server.http.get("/docs")).status_code == 200


async def test_two_servers_in_one_process_count_apart() -> None:
    async with served() as one, served() as other:
        await one.solve()
        assert (await one.counted("ok"), await other.counted("ok")) == (1, 0)
