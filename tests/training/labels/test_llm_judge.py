"""Labels by a judge: what it is asked, what its replies are worth, and how a run ends that cannot get any."""

import base64
import io
import json
import logging
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from PIL import Image

from cos.ledger.checker import exact_labels
from cos.ledger.rows import ledger_meta
from cos.ledger.task import Problem, derive
from cos.search.errors import InputError
from cos.search.grammars.cos import Step
from cos.training.config.recipe import LabelConfig
from cos.training.config.recipe_file import parse_recipe
from cos.training.data.rows import ChainRow, ProblemRow
from cos.training.labels.llm_judge import INSTRUCTIONS, MOST_FAILURES
from cos.training.labels.ratings import labels_of
from cos.training.stages.label import JUDGE_JOURNAL, with_labels
from tests.real.server_process import ROOT, fenced_blocks
from tests.training.judge_support import (
    BAD,
    GOOD,
    STEPS,
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
    steps_in,
)


def test_the_judge_is_shown_picture_question_gold_answer_and_every_step(tmp_path: Path, judge: Served) -> None:
    label(tmp_path, [chain(tmp_path, 0, answer="6")], keys(judge, max_tokens=700, temperature=0.0))
    (body,) = judge.asked
    assert (body["model"], body["max_completion_tokens"], body["temperature"]) == ("judge", 700, 0)
    system, user = body["messages"]
    assert system == {"role": "system", "content": INSTRUCTIONS}
    picture, question, _ = user["content"]
    head, _, data = picture["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (shown.size, shown.getpixel((0, 0))) == ((8, 6), (200, 10, 10))
    assert json.loads(question["text"]) == {"question": "What is the sum — «all» of it?", "correct_answer": "5"}
    assert chain_in(body) == {
        "steps": [
            {"number": number, "name": step.name, "thought": step.thought, "reflection": step.reflection}
            for number, step in enumerate(STEPS, start=1)
        ],
        "answer": "6",
    }


def test_the_reply_is_held_to_one_of_three_ratings_a_step(tmp_path: Path, judge: Served) -> None:
    label(tmp_path, [chain(tmp_path, 0)], keys(judge))
    form = judge.asked[0]["response_format"]
    assert (form["type"], form["json_schema"]["strict"]) == ("json_schema", True)
    labels = form["json_schema"]["schema"]["properties"]["labels"]
    assert labels["items"]["enum"] == ["Good", "Neutral", "Bad"]
    assert labels["minItems"] == labels["maxItems"] == 3
    assert "temperature" not in judge.asked[0], "some models take none"
    assert "max_completion_tokens" not in judge.asked[0]


def test_neutral_is_good_where_the_chain_ends_right_and_bad_where_it_ends_wrong(tmp_path: Path, judge: Served) -> None:
    judge.answer = lambda body, number: ["Good", "Neutral", "Bad"]
    rows, outcome = label(tmp_path, [chain(tmp_path, 0), chain(tmp_path, 1, answer="6")], keys(judge))
    assert rows[0].labels == {"judge": (GOOD, GOOD, BAD, GOOD)}
    assert rows[1].labels == {"judge": (GOOD, BAD, BAD, BAD)}
    assert outcome["judge"] == {
        "model": "judge",
        "judged": 2,
        "failed": 0,
        "reasons": {},
        "good": 0.3333,
        "neutral": 0.3333,
        "bad": 0.3333,
        "tokens_in": 200,
        "tokens_out": 20,
    }


def test_an_answer_is_good_when_it_equals_gold_and_a_chain_without_steps_needs_no_judge(
    tmp_path: Path, judge: Served
) -> None:
    rows, outcome = label(tmp_path, [chain(tmp_path, 0, ()), chain(tmp_path, 1, (), "6")], keys(judge))
    assert [row.labels["judge"] for row in rows] == [(GOOD,), (BAD,)]
    assert judge.asked == []
    assert (outcome["judge"]["judged"], outcome["judge"]["good"]) == (2, None)
    assert labels_of((), right=True) == (GOOD,)


@pytest.mark.parametrize(
    "useless",
    [
        completion(json.dumps({"labels": ["Good"]})),
        completion(json.dumps({"labels": ["Good", "Good", "Fine"]})),
        completion("### Step Label: [1, 1, 0]"),
        completion(None, refusal="I cannot help with that."),
        completion('{"labels": ["Good", "Go', finish_reason="length"),
        completion(json.dumps({"labels": ["Good"] * 3, "why": "so"})),
        JSONResponse({"choices": []}),
        JSONResponse({"choices": [{"text": "Good"}], "usage": {}}),
        PlainTextResponse("hello"),
        Response("{", media_type="application/json"),
    ],
    ids=["count", "word", "text", "refusal", "cut", "extra", "choices", "message", "plain", "broken"],
)
def test_a_reply_that_cannot_be_used_is_asked_for_again(tmp_path: Path, judge: Served, useless: Response) -> None:
    judge.answer = lambda body, number: useless if number == 1 else ["Good", "Good", "Bad"]
    rows, outcome = label(tmp_path, [chain(tmp_path, 0)], keys(judge))
    assert rows[0].labels["judge"] == (GOOD, GOOD, BAD, GOOD)
    assert len(judge.asked) == 2
    assert outcome["judge"]["tokens_in"] in {100, 200}, "what a useless reply cost counts, too, where it is known"


def test_a_chain_that_gets_no_usable_reply_has_no_labels_and_is_counted(
    tmp_path: Path, judge: Served, caplog: pytest.LogCaptureFixture
) -> None:
    judge.answer = lambda body, number: ["Good"] if chain_in(body)["answer"] == "6" else ["Good"] * 3
    old = with_labels(chain(tmp_path, 1, answer="6"), "judge", (GOOD,) * 4)
    with caplog.at_level(logging.WARNING, "cos.training.labels.llm_judge"):
        rows, outcome = label(tmp_path, [chain(tmp_path, 0), old, chain(tmp_path, 2)], keys(judge))
    assert [set(row.labels) for row in rows] == [{"judge"}, set(), {"judge"}], "labels of an earlier run are gone, too"
    assert (outcome["judge"]["judged"], outcome["judge"]["failed"]) == (2, 1)
    assert outcome["judge"]["tokens_in"] == 400, "one request for the two chains that say the same, three in vain"
    assert (
        "1 of 3 chains got no labels from the judge; the first, 'p/1': the reply has another number of " in caplog.text
    )


def test_a_request_that_one_chain_makes_fail_costs_that_chain_only(tmp_path: Path, judge: Served) -> None:
    judge.answer = lambda body, number: refusal(400, "too long") if steps_in(body) == 3 else ["Good"]
    rows, outcome = label(tmp_path, [chain(tmp_path, 9), *distinct(tmp_path, 1)], keys(judge))
    assert [set(row.labels) for row in rows] == [set(), {"judge"}]
    assert outcome["judge"]["failed"] == 1
    assert len(judge.asked) == 2, "what is refused once is refused again"


def test_a_reply_that_does_not_come_in_time_costs_its_chain(tmp_path: Path, judge: Served) -> None:
    def sleep(body: dict[str, Any], number: int) -> Answer:
        time.sleep(0.6)
        return ["Good"] * 3

    judge.answer = sleep
    rows, outcome = label(tmp_path, [chain(tmp_path, 0)], keys(judge, timeout_s=0.2, retries=0))
    assert (rows[0].labels, outcome["judge"]["failed"]) == ({}, 1)


def test_a_judge_that_labels_nothing_is_given_up(tmp_path: Path, judge: Served) -> None:
    judge.answer = lambda body, number: completion("I would say it is good.")
    with pytest.raises(InputError, match=r"no labels for 32 chains in a row.*would say it is good.*JSON schema"):
        label(tmp_path, distinct(tmp_path, 2 * MOST_FAILURES), keys(judge, retries=0))
    assert len(judge.asked) <= MOST_FAILURES + 1


@pytest.mark.parametrize(
    ("status", "param", "said"),
    [
        (401, "judge.key_env", r"127.0.0.1.*no such thing.*COS_TEST_KEY is not set"),
        (403, "judge.key_env", r"127.0.0.1.*no such thing.*COS_TEST_KEY"),
        (404, "judge.model", r"127.0.0.1.*no model 'judge'.*no such thing.*judge.url"),
        (429, "judge.concurrency", r"127.0.0.1.*'judge'.*no such thing.*lower judge.concurrency"),
    ],
)
def test_what_concerns_every_chain_stops_the_stage_at_once(
    tmp_path: Path, judge: Served, status: int, param: str, said: str
) -> None:
    judge.answer = lambda body, number: refusal(status, "no such thing")
    asked = keys(judge, key_env="COS_TEST_KEY", retries=0, concurrency=1)
    with pytest.raises(InputError, match=said) as caught:
        label(tmp_path, distinct(tmp_path, 5), asked)
    assert caught.value.param == param
    assert len(judge.asked) == 1


def test_a_server_that_is_not_there_is_named(tmp_path: Path, judge: Served) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    with pytest.raises(InputError, match=rf"'judge' cannot be reached at {url}.*start it or correct judge.url"):
        label(tmp_path, [chain(tmp_path, 0)], keys(judge, url=url, retries=1))


def test_a_passing_failure_is_tried_again_by_the_client(tmp_path: Path, judge: Served) -> None:
    judge.answer = lambda body, number: refusal(503, "busy") if number == 1 else ["Good"] * 3
    rows, _ = label(tmp_path, [chain(tmp_path, 0)], keys(judge))
    assert (len(judge.asked), len(rows[0].labels["judge"])) == (2, 4)


def test_the_key_comes_from_the_environment_and_from_nowhere_else(
    tmp_path: Path, judge: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COS_TEST_KEY", "sk-secret\n")
    label(tmp_path, [chain(tmp_path, 0)], keys(judge, key_env="COS_TEST_KEY"))
    assert judge.keys == ["Bearer sk-secret"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"sk-secret" in path.read_bytes()]


def test_a_stopped_run_goes_on_and_asks_nothing_twice(tmp_path: Path, judge: Served) -> None:
    judge.answer = lambda body, number: ["Bad"] if number <= 4 else refusal(401, "expired")
    rows = distinct(tmp_path, 9)
    with pytest.raises(InputError, match="expired"):
        label(tmp_path, rows, keys(judge, concurrency=1))
    assert not (tmp_path / "label" / "done.json").exists()
    judge.asked.clear()
    judge.answer = always("Good")
    again, outcome = label(tmp_path, rows, keys(judge, concurrency=3))
    assert sorted(chain_in(body)["steps"][0]["thought"] for body in judge.asked) == [f"I see {n}." for n in range(4, 9)]
    assert [row.labels["judge"][0] for row in again] == [BAD] * 4 + [GOOD] * 5
    assert (outcome["judge"]["judged"], outcome["judge"]["tokens_in"]) == (9, 900), "what was spent before counts"
    assert not (tmp_path / "label" / JUDGE_JOURNAL).exists()


def test_a_run_that_goes_on_asks_again_for_chains_without_labels(tmp_path: Path, judge: Served) -> None:
    judge.answer = lambda body, number: refusal(401, "expired") if number == 3 else completion("no")
    rows = distinct(tmp_path, 3)
    with pytest.raises(InputError, match="expired"):
        label(tmp_path, rows, keys(judge, concurrency=1, retries=1))
    judge.answer = always("Good")
    _, outcome = label(tmp_path, rows, keys(judge))
    assert (outcome["judge"]["failed"], outcome["judge"]["tokens_in"]) == (0, 500)


def test_labels_of_another_judge_are_not_mixed_in(tmp_path: Path, judge: Served) -> None:
    judge.answer = lambda body, number: ["Bad"] if number == 1 else refusal(401, "expired")
    with pytest.raises(InputError, match="expired"):
        label(tmp_path, distinct(tmp_path, 2), keys(judge, concurrency=1))
    with pytest.raises(InputError, match="judge was 'judge' and is 'other'"):
        label(tmp_path, distinct(tmp_path, 2), keys(judge, model="other"))


def test_with_consensus_only_what_judge_and_checker_agree_on_stays(tmp_path: Path, judge: Served) -> None:
    ledger = Problem(("47", "85"), "total")
    gold = derive(ledger)
    slip = Step("Read row 2", "Row 2 shows 35.", "")
    problem = ProblemRow(
        id="l",
        image=chain(tmp_path, 0).problem.image,
        question=ledger.question,
        answer=gold.answer,
        meta=ledger_meta(ledger),
    )
    right = ChainRow(id="l/0", problem=problem, steps=gold.steps, answer=gold.answer)
    wrong = ChainRow(id="l/1", problem=problem, steps=(gold.steps[0], slip, *gold.steps[2:]), answer="82")
    lenient = ChainRow(id="l/2", problem=problem, steps=(*gold.steps[:-1], slip), answer=gold.answer)
    unread = ChainRow(id="l/3", problem=problem, steps=gold.steps[:1], answer=gold.answer)
    hard = [label.hard for label in exact_labels(wrong)[:-1]]

    def rate(body: dict[str, Any], number: int) -> Answer:
        written = chain_in(body)
        if len(written["steps"]) == 1:
            return completion("no")
        return ["Good" if good or written["answer"] == gold.answer else "Bad" for good in hard]

    judge.answer = rate
    rows, outcome = label(
        tmp_path, [right, wrong, lenient, unread], keys(judge), sources=("exact", "judge"), consensus=True
    )
    assert [row.id for row in rows] == ["l/0", "l/1"], "the lenient verdict and the chain without one are left out"
    assert (outcome["kept"], outcome["judge"]["failed"]) == (2, 1)
    (compared,) = outcome["agreement"]
    assert (compared["first"], compared["second"], compared["chains"]) == ("exact", "judge", 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("sources: [judge]", "need both"),
        ("judge: {model: m, url: 'http://x/v1'}", "need both"),
        ("sources: [judge], judge: {model: m, url: x/v1}", "judge.url"),
        ("sources: [judge], judge: {model: m, url: 'http://x/v1', api_key: s}", "judge.api_key"),
    ],
)
def test_a_mistake_about_the_judge_in_a_recipe_is_named(given: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_recipe(f"name: x\nstages:\n  - {{stage: label, chains: [a], {given}}}\n")


def test_a_key_in_place_of_its_variable_is_refused_and_not_shown() -> None:
    judge = "judge: {model: m, url: 'http://x/v1', key_env: sk-secret}"
    with pytest.raises(InputError, match="name of the environment variable") as caught:
        parse_recipe(f"name: x\nstages:\n  - {{stage: label, chains: [a], sources: [judge], {judge}}}\n")
    assert "sk-secret" not in str(caught.value)


def test_the_documented_recipe_is_one() -> None:
    *_, written = fenced_blocks(ROOT / "docs" / "training.md", "yaml")
    stage = parse_recipe(f"name: x\nstages:\n{written}").find("label")
    assert isinstance(stage, LabelConfig)
    assert stage.judge is not None
