"""Scores of chains that are written already: by the clients, by ``cos score``, with a server and in this process."""

import io
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from cos.clients import AsyncClient, Client, Scores
from cos.clients.cli import main
from cos.clients.errors import BadRequest
from cos.server.app import create_app
from cos.server.settings import Settings

QUESTION = "How much is it?"
STEPS = ["Look at part 1", "Add both"]
LOCAL = ["--prm", "scripted"]


@pytest_asyncio.fixture
async def asking() -> AsyncGenerator[AsyncClient]:
    app = create_app(Settings(policy="scripted"))
    async with (
        app.router.lifespan_context(app),
        AsyncClient("http://localhost", transport=httpx.ASGITransport(app)) as client,
    ):
        yield client


async def test_a_chain_is_scored_and_the_scores_are_frozen(asking: AsyncClient, png: bytes) -> None:
    scores = await asking.score(png, QUESTION, steps=STEPS, answer="12", aggregation="mean")
    (result,) = scores.results
    assert [step.text for step in result.steps] == STEPS
    assert result.answer is not None
    assert scores.aggregation == "mean"
    with pytest.raises(ValueError, match="frozen"):
        result.score = 1.0  # pyright: ignore[reportAttributeAccessIssue]


async def test_the_steps_of_a_solution_are_scored_as_they_are(asking: AsyncClient, png: bytes) -> None:
    found = await asking.solve(png, QUESTION, strategy="beam", n=4)
    steps = [step.model_dump() for step in found.steps]
    (result,) = (await asking.score(png, QUESTION, steps=steps, answer=found.answer or "")).results
    assert [step.score for step in result.steps] == [step.score for step in found.steps]


async def test_answers_are_put_in_order(asking: AsyncClient, png: bytes) -> None:
    scores = await asking.rerank(png, QUESTION, ["12", {"steps": STEPS, "answer": "13"}], top_n=1)
    assert len(scores.results) == 1


async def test_what_cannot_be_scored_comes_back_with_its_name(asking: AsyncClient, png: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        await asking.score(png, QUESTION)
    assert caught.value.param == "body"
    assert "give steps, an answer, or a text" in str(caught.value)


def test_the_blocking_client_sends_the_same(png: bytes) -> None:
    seen: list[tuple[str, Any]] = []

    def server(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.path, json.loads(request.content)))
        return httpx.Response(400, json={"error": {"message": "no", "type": "invalid_request_error", "code": "c"}})

    with Client(transport=httpx.MockTransport(server)) as client:
        with pytest.raises(BadRequest):
            client.score(png, QUESTION, text="It is 12.")
        with pytest.raises(BadRequest):
            client.rerank(None, QUESTION, ["12", "13"], step_weight=0.5)
    (path, one), (other_path, many) = seen
    assert (path, one["text"], one["question"]) == ("/v1/score", "It is 12.", QUESTION)
    assert (other_path, many) == (
        "/v1/rerank",
        {"question": QUESTION, "answers": ["12", "13"], "step_weight": 0.5},
    )


def run(*arguments: str) -> int:
    """The exit status of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_a_chain_is_scored_in_this_process_and_shown(png_path: str, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [part for step in ("It is 1 [0.91]", "Add <b> [0.20]") for part in ("--step", step)]
    assert run("score", png_path, QUESTION, *steps, "--answer", "12", *LOCAL) == 0
    text = capsys.readouterr().out
    for told in (
        "Add <b>",
        "0.910",
        "0.200",
        "Answer: 12",
        "Chain score (cos)",
        "First suspicious step: 2 (below 0.5)",
    ):
        assert told in text


def test_a_chain_in_a_file_or_from_stdin_is_scored(
    png_path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("It shows 4.\n\nFinal answer: 4\n"))
    assert run("score", png_path, QUESTION, "--text", "-", *LOCAL, "--json") == 0
    scores = Scores.model_validate_json(capsys.readouterr().out)
    assert [step.text for step in scores.results[0].steps] == ["It shows 4."]
    assert run("score", png_path, QUESTION, "--text", "no/such.txt", *LOCAL) == 2
    assert "no/such.txt" in capsys.readouterr().err


def test_a_chain_about_no_picture_or_about_two_is_scored(png_path: str, capsys: pytest.CaptureFixture[str]) -> None:
    for pictures in ([], ["--image", png_path, "--image", png_path]):
        assert run("score", *pictures, QUESTION, "--step", "It is 1", *LOCAL, "--json") == 0
        assert len(Scores.model_validate_json(capsys.readouterr().out).results[0].steps) == 1


def test_nothing_to_score_is_an_error_of_the_caller(png_path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("score", png_path, QUESTION, *LOCAL) == 2
    assert "give steps, an answer, or a text" in capsys.readouterr().err
