"""Replies of a judge that misbehaves: each is a failed chain with a reason, and the stage says how many there were."""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse

from cos.evaluation.failures import StageError
from cos.search.errors import InputError
from cos.training.config.keys import JudgeKeys
from cos.training.data.rows import ChainRow
from cos.training.labels.llm_judge import MOST_REPLY_BYTES, Judge, client_of
from cos.training.labels.ratings import Verdict
from cos.training.stages.label import JUDGE_JOURNAL
from tests.training.judge_support import (
    Answer,
    Served,
    always,
    chain,
    chain_in,
    completion,
    distinct,
    keys,
    label,
    refusal,
)

RATED = json.dumps({"labels": ["Good", "Neutral", "Bad"]})


async def rated(asked: JudgeKeys, row: ChainRow) -> Verdict:
    async with client_of(asked) as client:
        return await Judge(client, asked).rate(row)


def choices(*found: Any, **others: Any) -> Response:
    return JSONResponse({"id": "x", "choices": list(found), **others})


def message(**values: Any) -> Response:
    return choices({"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **values}})


def body(content: bytes | str, media_type: str = "application/json") -> Response:
    return Response(content, media_type=media_type)


NO_COMPLETION = "the reply is no chat completion: "
MALFORMED: dict[str, tuple[Response, str]] = {
    "choice null": (choices(None), NO_COMPLETION + "choices.0"),
    "choice a number": (choices(7), NO_COMPLETION + "choices.0"),
    "choice a text": (choices("Good"), NO_COMPLETION + "choices.0"),
    "no choice": (choices(), NO_COMPLETION + "choices"),
    "choices null": (JSONResponse({"choices": None}), NO_COMPLETION + "choices"),
    "choices an object": (JSONResponse({"choices": {"0": {}}}), NO_COMPLETION + "choices"),
    "choices missing": (JSONResponse({}), NO_COMPLETION + "choices"),
    "an error with status 200": (JSONResponse({"error": {"message": "quota is spent"}}), "quota is spent"),
    "message null": (choices({"message": None}), NO_COMPLETION + "choices.0.message"),
    "message a text": (choices({"message": RATED}), NO_COMPLETION + "choices.0.message"),
    "message missing": (choices({"text": RATED}), NO_COMPLETION + "choices.0.message"),
    "content a number": (message(content=7), NO_COMPLETION + "choices.0.message.content"),
    "content a list": (message(content=[{"type": "text", "text": RATED}]), NO_COMPLETION + "choices.0.message.content"),
    "content an object": (message(content={"labels": []}), NO_COMPLETION + "choices.0.message.content"),
    "content null": (message(content=None), "the reply is empty: refusal None"),
    "content empty": (message(content=""), "the reply is empty"),
    "content missing": (message(refusal=["no"]), "the reply is empty: refusal ['no']"),
    "labels null": (message(content='{"labels": null}'), "the reply does not keep to the schema"),
    "labels numbers": (message(content='{"labels": [1, 1, 0]}'), "the reply does not keep to the schema"),
    "labels too few": (message(content='{"labels": ["Good"]}'), "another number of labels than of steps: 1 for 3"),
    "labels in a fence": (message(content=f"```json\n{RATED}\n```"), "the reply does not keep to the schema"),
    "labels deep": (message(content='{"labels":' + "[" * 5_000), "the reply does not keep to the schema"),
    "a list": (JSONResponse([{"choices": []}]), NO_COMPLETION),
    "a number": (JSONResponse(7), NO_COMPLETION),
    "null": (body("null"), NO_COMPLETION),
    "no body": (body(""), "the reply has no body"),
    "white space": (body("\n\n"), "the reply has no body"),
    "cut JSON": (body('{"choices": [{"mess'), NO_COMPLETION),
    "deep JSON": (body("[" * 100_000), NO_COMPLETION),
    "not UTF-8": (body(b'{"choices": "\xff\xfe"}'), NO_COMPLETION),
    "a page": (HTMLResponse("<html><h1>Bad gateway</h1></html>"), "Bad gateway"),
    "plain text": (PlainTextResponse("I would say it is good."), "I would say it is good."),
    "an event stream": (body(f'data: {{"choices": []}}\n\ndata: {RATED}', "text/event-stream"), NO_COMPLETION),
    "a body without end": (body(b" " * (MOST_REPLY_BYTES + 1)), f"longer than {MOST_REPLY_BYTES} bytes"),
    "no gzip": (Response("<html>" * 9, headers={"content-encoding": "gzip"}), "no reply could be read: "),
    "half a surrogate pair": (body(r'"\ud83d"'), NO_COMPLETION),
    "status 422 with one": (Response(r'"\ud83d"', 422, media_type="application/json"), "the server answered 422: "),
    "status 400": (refusal(400, "image too large"), "the server answered 400: "),
    "status 418 with a page": (HTMLResponse("<p>teapot</p>", 418), "the server answered 418: "),
    "status 500": (refusal(500, "out of memory"), "the server answered 500: "),
}


@pytest.mark.parametrize(("reply", "why"), MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_reply_that_cannot_be_used_is_a_failed_chain_with_its_reason(
    tmp_path: Path, judge: Served, reply: Response, why: str
) -> None:
    judge.answer = lambda body, number: reply
    verdict = await rated(keys(judge, retries=0), chain(tmp_path, 0))
    assert verdict.ratings is None
    assert why in verdict.why
    assert verdict.why.encode(), "it can be written to a file"


@pytest.mark.parametrize(
    "usage", [[], [7], "many", 7, *({"prompt_tokens": count} for count in ("x", None, -3, 1.5, True, 10**100))]
)
async def test_a_count_of_tokens_that_is_none_counts_as_nothing(tmp_path: Path, judge: Served, usage: Any) -> None:
    judge.answer = lambda body, number: choices({"message": {"content": RATED}}, usage=usage)
    verdict = await rated(keys(judge, retries=0), chain(tmp_path, 0))
    assert verdict.ratings == ("Good", "Neutral", "Bad")
    assert (verdict.tokens_in, verdict.tokens_out) == (0, 0)


async def test_a_right_reply_under_another_content_type_is_read(tmp_path: Path, judge: Served) -> None:
    judge.answer = lambda body, number: PlainTextResponse(json.dumps({"choices": [{"message": {"content": RATED}}]}))
    assert (await rated(keys(judge, retries=0), chain(tmp_path, 0))).ratings == ("Good", "Neutral", "Bad")


async def test_a_reply_that_trickles_does_not_pass_its_time(tmp_path: Path, judge: Served) -> None:
    async def trickle() -> AsyncGenerator[bytes]:
        for _ in range(100):
            yield b" "
            await asyncio.sleep(0.05)

    judge.answer = lambda body, number: StreamingResponse(trickle(), media_type="application/json")
    verdict = await rated(keys(judge, retries=0, timeout_s=0.3), chain(tmp_path, 0))
    assert verdict.why == "no whole reply came within judge.timeout_s: 0.3 s"


async def test_a_connection_that_breaks_costs_its_chain_only(tmp_path: Path, judge: Served) -> None:
    async def broken() -> AsyncGenerator[bytes]:
        yield b'{"choices": ['
        raise ConnectionResetError

    judge.answer = lambda body, number: StreamingResponse(broken(), media_type="application/json")
    verdict = await rated(keys(judge, retries=0), chain(tmp_path, 0))
    assert verdict.why.startswith("no reply could be read: ")


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_passes_is_asked_again_when_the_server_says(tmp_path: Path, judge: Served, status: int) -> None:
    def answer(asked: dict[str, Any], number: int) -> Answer:
        soon = refusal(status, "busy")
        soon.headers["retry-after"] = "0.01"
        return soon if number == 1 else ["Good"] * 3

    judge.answer = answer
    rows, outcome = label(tmp_path, [chain(tmp_path, 0)], keys(judge, retries=1))
    assert (len(judge.asked), len(rows[0].labels["judge"]), outcome["failed"]) == (2, 4, {"judge": 0})


def test_a_stage_whose_every_chain_fails_is_not_done(tmp_path: Path, judge: Served) -> None:
    judge.answer = lambda body, number: choices(None)
    said = r"stage 'label': 20 of 20 chains got no labels from the judge, 20 of them because: the reply is no chat "
    with pytest.raises(
        StageError, match=said + r"completion.*it tries only what failed, or raise failed_at_most \(0.1"
    ):
        label(tmp_path, distinct(tmp_path, 20), keys(judge, retries=0), failed_at_most=0.1)
    assert not (tmp_path / "label" / "done.json").exists()
    assert (tmp_path / "label" / JUDGE_JOURNAL).exists()


def test_after_too_many_failures_the_same_command_tries_only_what_failed(tmp_path: Path, judge: Served) -> None:
    def sometimes(asked: dict[str, Any], number: int) -> Answer:
        seen = int(chain_in(asked)["steps"][0]["thought"].removeprefix("I see ").removesuffix("."))
        return ["Bad"] if seen % 5 else completion("no") if seen else refusal(400, "too long")

    judge.answer = sometimes
    rows = distinct(tmp_path, 20)
    with pytest.raises(StageError, match=r"4 of 20 chains .* 3 of them because: the reply does not.*other reasons: 1"):
        label(tmp_path, rows, keys(judge, retries=0), failed_at_most=0.1)
    judge.asked.clear()
    judge.answer = always("Good")
    again, outcome = label(tmp_path, rows, keys(judge, retries=0), failed_at_most=0.1)
    assert sorted(chain_in(body)["steps"][0]["thought"] for body in judge.asked) == [
        f"I see {n}." for n in (0, 10, 15, 5)
    ]
    assert (outcome["labelled"], outcome["failed"]) == ({"judge": 20}, {"judge": 0})
    assert sum(given.hard for row in again if (given := row.labels["judge"][0])) == 4


def test_a_share_of_failures_that_is_allowed_is_counted(tmp_path: Path, judge: Served) -> None:
    judge.answer = lambda body, number: completion("no") if number == 3 else ["Good"]
    _, outcome = label(tmp_path, distinct(tmp_path, 10), keys(judge, retries=0), failed_at_most=0.1)
    assert (outcome["labelled"], outcome["failed"]) == ({"judge": 9}, {"judge": 1})
    assert outcome["judge"]["reasons"] == {"the reply does not keep to the schema": 1}
    assert not (tmp_path / "label" / JUDGE_JOURNAL).exists()


def test_a_problem_without_a_gold_answer_is_not_judged(tmp_path: Path, judge: Served) -> None:
    row = chain(tmp_path, 0)
    unknown = replace(row, problem=replace(row.problem, answer=""))
    with pytest.raises(InputError, match="problem 'p' has no gold answer"):
        label(tmp_path, [unknown], keys(judge))
    assert judge.asked == []
