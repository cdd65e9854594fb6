"""A request for scores has its limits: of steps, of time, of pictures in hand; and it says what its scores lack."""

import asyncio
from typing import Any

import pytest

from cos.engines.scripted import Script, ScriptedEngine
from cos.prm.cos import CosPrm
from cos.search.errors import EngineError
from cos.search.ports import Reading
from cos.search.prompt import Prompt
from cos.search.types import Chain, Picture, Question
from cos.server.images import Upload
from cos.server.service import Service
from cos.wire.score import MOST_STEPS
from tests.server.support import Served, error_of, served, until
from tests.server.test_score import QUESTION, STEPS, asked, post

LONG = "I look at the next row. " * 2000
"""More than the context of a scripted PRM has room for."""


@pytest.mark.parametrize("path", ["score", "rerank"])
async def test_a_text_of_more_steps_than_a_chain_may_have_is_refused(server: Served, path: str) -> None:
    text = "\n\n".join(f"It shows {number}." for number in range(MOST_STEPS + 2))
    fields = asked(text=text) if path == "score" else asked(answers=["1", text])
    response = await server.http.post(f"/v1/{path}", json=fields)
    assert response.status_code == 422
    error = error_of(response)
    assert error["param"] == ("text" if path == "score" else "answers[1]")
    assert f"more than {MOST_STEPS} steps" in error["message"]
    most = "\n\n".join(f"It shows {number}." for number in range(MOST_STEPS))
    (result,) = (await post(server, "/v1/score", asked(text=f"{most}\n\nFinal answer: 4")))["results"]
    assert len(result["steps"]) == MOST_STEPS


async def test_the_pictures_of_a_few_questions_at_a_time_are_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, most = list[Upload](), 0
    plain = Service.decode

    async def decode(self: Service, upload: Upload) -> Picture:
        nonlocal most
        decoded.append(upload)
        # Every chain here is read once.
        most = max(most, len(decoded) - self_engine(self).steps)
        return await plain(self, upload)

    def self_engine(service: Service) -> ScriptedEngine:
        assert isinstance(service.engines.prm, ScriptedEngine)
        return service.engines.prm

    monkeypatch.setattr(Service, "decode", decode)
    async with served(Script(seconds_per_read=0.001)) as server:
        items = [asked(question=f"What is row {number}?", answer="1") for number in range(60)]
        reply = await post(server, "/v1/score", {"items": items})
    assert len(decoded) == len(reply["results"]) == 60
    assert [result["index"] for result in reply["results"]] == [*range(60)]
    assert most <= 16


async def test_a_request_that_takes_longer_than_a_search_may_ends() -> None:
    async with served(Script(seconds_per_read=30), timeout_s=0.2) as server:
        response = await server.http.post("/v1/score", json=asked(steps=STEPS))
        assert response.status_code == 504
        assert "not scored within 0.2 s" in error_of(response)["message"]
        await until(lambda: server.in_flight == 0)
        assert await server.counted("failed") == 1


async def test_a_server_that_must_end_ends_requests_for_scores_too() -> None:
    async with served(Script(seconds_per_read=30)) as server:
        asking = asyncio.create_task(server.http.post("/v1/score", json=asked(steps=STEPS)))
        await until(lambda: server.in_flight > 0)
        server.service.stop.set()
        response = await asking
        assert response.status_code == 503
        assert "shut down" in error_of(response)["message"]
        await until(lambda: server.in_flight == 0)


async def test_a_chain_that_the_prm_has_no_room_for_is_told_so_and_read_no_further() -> None:
    async with served() as server:
        reply = await post(server, "/v1/score", asked(steps=["I look.", LONG, "Add both", "So it is."], answer="1"))
        (result,) = reply["results"]
        assert [step["score"] is None for step in result["steps"]] == [False, True, True, True]
        assert (result["answer"]["score"], result["unscored"], result["score"]) == (None, 4, None)
        assert reply["usage"]["prm_reads"] == 1
        (told,) = reply["warnings"]
        assert told == "1 chain is longer than the PRM's context has room for: 4 steps and answers are unscored"
        assert await server.counted("partial") == 1


async def test_chains_that_all_have_no_room_are_the_callers_to_mend() -> None:
    async with served() as server:
        response = await server.http.post("/v1/score", json=asked(steps=[LONG]))
        assert response.status_code == 422
        assert "longer than the PRM's context has room for" in error_of(response)["message"]
        assert await server.counted("rejected") == 1


class Writing:
    """A session of a PRM that writes, and whose second score is none on its scale."""

    async def score(self, chain: Chain) -> Reading:
        return Reading(1.5 if len(chain.candidates) == 2 else 0.5, 10, 0, tokens=7)


async def test_numbers_off_the_prms_scale_and_what_it_wrote_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_(self: CosPrm, question: Question) -> Writing:
        return Writing()

    monkeypatch.setattr(CosPrm, "open", open_)
    async with served() as server:
        reply = await post(server, "/v1/score", asked(steps=STEPS))
        assert [step["score"] for step in reply["results"][0]["steps"]] == [0.5, None, 0.5]
        assert reply["warnings"] == ["1 of the PRM's numbers are not on its format's scale, and were not used"]
        assert reply["usage"]["prm_tokens_generated"] == 21
        assert 'cos_prm_tokens_total{strategy="score"} 21.0' in (await server.http.get("/metrics")).text


@pytest.mark.parametrize(("error", "outcome"), [(ValueError("a bug"), "failed"), (EngineError("no memory"), "failed")])
async def test_a_request_that_the_server_fails_is_not_counted_as_rejected(
    error: Exception, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_(self: ScriptedEngine, prompt: Prompt) -> Any:
        raise error

    async with served() as server:
        monkeypatch.setattr(ScriptedEngine, "open", open_)
        response = await server.http.post("/v1/score", json={"question": QUESTION, "answer": "1"})
        assert response.status_code >= 500
        assert await server.counted(outcome) == 1
