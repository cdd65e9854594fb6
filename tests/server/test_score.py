"""Chains that are written already: their scores, the first step that is taken for wrong, and their order."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from cos.engines.scripted import Script
from cos.search.errors import EngineError
from cos.search.grammars.cos import THOUGHT_START, Step, answer_text, step_text
from cos.search.prompt import Prompt
from tests.server.support import Served, body, error_of, served

QUESTION = "How much is it?"
STEPS = ["Look at part 1", "Look at part 2", "Add both"]


def asked(**fields: Any) -> dict[str, Any]:
    """A body that is good but for these fields; None takes one out."""
    good = {"question": QUESTION, "image": body()["image"], **fields}
    return {name: value for name, value in good.items() if value is not None}


def judging(scores: dict[str, float]) -> Script:
    """A PRM whose score of a piece is that of the last of these words in what it is shown, 0.9 before any."""

    def judge(prompt: Prompt, written: str) -> float:
        del prompt
        found = [(written.rfind(word), score) for word, score in scores.items() if word in written]
        return max(found, default=(0, 0.9))[1]

    return Script(judge=judge)


async def post(server: Served, path: str, fields: dict[str, Any]) -> Any:
    response = await server.http.post(path, json=fields)
    assert response.status_code == 200, response.text
    return response.json()


async def test_every_step_and_the_answer_have_a_score_and_the_reply_says_what_it_means(server: Served) -> None:
    reply = await post(server, "/v1/score", asked(steps=STEPS, answer="12"))
    (result,) = reply["results"]
    assert [step["text"] for step in result["steps"]] == STEPS
    assert all(0 <= step["score"] <= 1 for step in result["steps"])
    assert result["answer"]["text"] == "12"
    assert result["unscored"] == 0
    told = ("object", "prm_format", "threshold", "aggregation", "step_weight", "lowest", "highest", "is_probability")
    assert [reply[name] for name in told] == ["score", "cos", 0.5, "cos", 0.2, 0, 1, True]
    assert reply["usage"]["prm_reads"] == 4
    mean = sum(step["score"] for step in result["steps"]) / 3
    assert result["score"] == pytest.approx(0.2 * mean + 0.8 * result["answer"]["score"])


async def test_the_steps_of_a_reply_are_sent_back_as_they_are_and_have_the_same_scores(server: Served) -> None:
    found = (await server.solve(strategy="beam", n=4, question=QUESTION)).json()
    reply = await post(server, "/v1/score", asked(steps=found["steps"], answer=found["answer"]))
    (result,) = reply["results"]
    assert [step["score"] for step in result["steps"]] == [step["score"] for step in found["steps"]]
    assert (result["answer"]["score"], result["score"]) == (found["answer_score"], found["chain_score"])


async def test_the_first_step_below_the_threshold_is_named_from_one() -> None:
    scores = {"part 1": 0.92, "part 2": 0.3, "Add": 0.2}
    async with served(judging(scores)) as server:
        (result,) = (await post(server, "/v1/score", asked(steps=STEPS)))["results"]
        assert [step["score"] for step in result["steps"]] == pytest.approx(list(scores.values()))
        assert result["first_suspicious_step"] == 2
        assert result["answer"] is None
        (good,) = (await post(server, "/v1/score", asked(steps=STEPS[:1])))["results"]
        assert good["first_suspicious_step"] is None


async def test_many_chains_are_scored_in_one_request_in_their_order() -> None:
    async with served(judging({"part 1": 0.2, "part 2": 0.6, "Add": 0.8})) as server:
        items = [asked(steps=[step], answer=None) for step in STEPS]
        reply = await post(server, "/v1/score", {"items": items, "aggregation": "mean"})
        assert [result["index"] for result in reply["results"]] == [0, 1, 2]
        assert [result["score"] for result in reply["results"]] == pytest.approx([0.2, 0.6, 0.8])


async def test_a_text_is_cut_as_the_policy_writes_or_else_at_blank_lines(server: Served) -> None:
    marked = step_text(Step("Look", "It shows 4.", "ok"), first=True) + answer_text("4", first=False)
    plain = "It shows 4.\n\nIt shows 5 beside it.\n\nFinal answer: 9"
    for text, steps, answer in ((marked, ["Look: It shows 4. ok"], "4"), (plain, plain.split("\n\n")[:2], "9")):
        (result,) = (await post(server, "/v1/score", asked(text=text)))["results"]
        assert [step["text"] for step in result["steps"]] == steps
        assert result["answer"]["text"] == answer


async def test_blank_lines_in_a_row_are_no_step_of_a_text(server: Served) -> None:
    reply = await post(server, "/v1/score", asked(text="\n\n".join(["", STEPS[0], *[""] * 5, "12", ""])))
    (result,) = reply["results"]
    assert [step["text"] for step in result["steps"]] == [STEPS[0], "12"]
    assert reply["usage"]["prm_reads"] == 2


async def test_the_answer_of_a_text_may_stand_a_paragraph_behind_its_mark(server: Served) -> None:
    reply = await post(server, "/v1/rerank", asked(answers=["We add.\n\n**Final answer:**\n\n42\n\nAll done."]))
    (result,) = reply["results"]
    assert ([step["text"] for step in result["steps"]], result["answer"]["text"]) == (["We add."], "42")


async def test_answers_to_one_question_are_put_in_order() -> None:
    async with served(judging({"12": 0.4, "13": 0.9, "14": 0.7})) as server:
        reply = await post(server, "/v1/rerank", asked(answers=["12", "13", {"steps": ["I add"], "answer": "14"}]))
        assert reply["object"] == "rerank"
        assert [result["index"] for result in reply["results"]] == [1, 2, 0]
        assert reply["results"][0]["answer"] == {"text": "13", "score": pytest.approx(0.9)}
        best = await post(server, "/v1/rerank", asked(answers=["12", "13"], top_n=1))
        assert [result["index"] for result in best["results"]] == [1]


async def test_the_picture_of_many_chains_is_decoded_once(server: Served) -> None:
    async def decoded() -> float:
        lines = (await server.http.get("/metrics")).text.splitlines()
        counts = [line for line in lines if line.startswith("cos_image_decode_duration_seconds_count")]
        return sum(float(line.rpartition(" ")[2]) for line in counts)

    before = await decoded()
    await post(server, "/v1/score", {"items": [asked(steps=[step]) for step in STEPS]})
    assert await decoded() == before + 1


@pytest.mark.parametrize("text", ["+ ки <|im_end|>", "к+и", "<image>", "<extra_0><prm>", "\n\n", "+"])
async def test_a_reserved_string_in_a_step_changes_the_number_of_no_score(server: Served, text: str) -> None:
    reply = await post(server, "/v1/score", asked(steps=[text, "Add both"], answer=text))
    (result,) = reply["results"]
    assert len(result["steps"]) == 2
    assert reply["usage"]["prm_reads"] == 3


@pytest.mark.parametrize(
    ("path", "fields", "param", "told"),
    [
        ("/v1/score", {}, "body", "nothing to score"),
        ("/v1/score", {"steps": ["a"], "text": "b"}, "body", "one of the two"),
        ("/v1/score", {"steps": []}, "body", "nothing to score"),
        ("/v1/score", {"steps": [""]}, "steps[0].text", "at least 1 character"),
        ("/v1/score", {"steps": ["a"], "step": 1}, "step", "unknown field"),
        ("/v1/score", {"steps": ["a"], "question": " "}, "question", "empty"),
        ("/v1/score", {"steps": ["a"], "image": "%"}, "image", "base64"),
        ("/v1/score", {"steps": ["a"], "aggregation": "most"}, "aggregation", "'cos'"),
        (
            "/v1/score",
            {"text": step_text(Step("a", "b", "c"), first=True).replace(THOUGHT_START, "")},
            "text",
            "neither a step",
        ),
        ("/v1/score", {"text": "a\n\n" * 128 + "b\n\nc"}, "text", "more than 128 steps"),
        ("/v1/rerank", {"answers": ["4", "a\n\n" * 60_000]}, "answers[1]", "more than 128 steps"),
        ("/v1/rerank", {"answers": []}, "answers", "at least 1 item"),
        ("/v1/rerank", {"answers": ["1"], "top_n": 0}, "top_n", "greater than or equal to 1"),
    ],
)
async def test_what_cannot_be_scored_is_refused_by_name(
    server: Served, path: str, fields: dict[str, Any], param: str, told: str
) -> None:
    response = await server.http.post(path, json=asked(**fields))
    assert response.status_code == 422
    error = error_of(response)
    assert error["param"] == param
    assert told in error["message"]
    assert "items" not in error["message"]


@pytest.mark.parametrize(
    ("item", "param"),
    [({}, "items[1]"), ({"step": 1}, "items[1].step"), ({"steps": ["a"], "image": "%"}, "items[1].image")],
)
async def test_of_many_chains_the_wrong_one_is_named(server: Served, item: dict[str, Any], param: str) -> None:
    sent = {"items": [asked(steps=["a"]), asked(**item)]}
    error = error_of(await server.http.post("/v1/score", json=sent))
    assert error["param"] == param
    assert param in error["message"]


async def test_a_picture_is_required_where_the_policy_needs_one() -> None:
    async with served(image_required=True) as server:
        error = error_of(await server.http.post("/v1/score", json=asked(steps=STEPS, image=None)))
        assert error["param"] == "image"


async def test_the_pictures_and_the_conversation_of_a_question_are_shown_to_the_prm(server: Served) -> None:
    picture = body()["image"]
    history = [{"role": "user", "content": "Look."}, {"role": "assistant", "content": "I see rows."}]
    one = await post(server, "/v1/score", asked(steps=STEPS))
    more = await post(server, "/v1/score", asked(image=None, images=[picture, picture], history=history, steps=STEPS))
    assert more["usage"]["prm_prompt_tokens"] > one["usage"]["prm_prompt_tokens"]


async def test_scores_of_a_prm_that_sees_no_picture_say_so() -> None:
    async with served(prm_format="math_shepherd") as server:
        reply = await post(server, "/v1/score", asked(steps=STEPS))
        assert any("not shown the picture, because its format 'math_shepherd'" in told for told in reply["warnings"])
        items = [asked(steps=STEPS), asked(answer="1"), asked(image=None, images=[body()["image"]] * 2, answer="1")]
        (told,) = (await post(server, "/v1/score", {"items": items}))["warnings"]
        assert "not shown the 3 pictures" in told
        assert (await post(server, "/v1/score", asked(image=None, steps=STEPS)))["warnings"] == []


async def test_a_server_without_a_prm_says_so() -> None:
    async with served(prm="none") as server:
        error = error_of(await server.http.post("/v1/score", json=asked(steps=STEPS)))
        assert "no PRM to score chains; start it with --prm" in error["message"]


def failing(fails: Callable[[int], bool]) -> Script:
    """A PRM that fails those reads, numbered from 0."""

    def fault(kind: str, number: int) -> EngineError | None:
        return EngineError("not now") if kind == "read" and fails(number) else None

    return Script(fault=fault)


async def test_a_read_that_fails_once_is_tried_again() -> None:
    async with served(failing(lambda number: number == 1)) as server:
        reply = await post(server, "/v1/score", asked(steps=STEPS))
        assert reply["results"][0]["unscored"] == 0
        assert reply["warnings"] == []


async def test_a_read_that_fails_twice_leaves_its_step_unscored_and_is_told() -> None:
    async with served(failing(lambda number: number in {1, 2})) as server:
        reply = await post(server, "/v1/score", asked(steps=STEPS))
        (result,) = reply["results"]
        assert [step["score"] is None for step in result["steps"]] == [False, True, False]
        assert (result["unscored"], result["score"]) == (1, None)
        assert reply["warnings"] == ["PRM reads that failed twice: 1; their steps are unscored"]
        assert await server.counted("partial") == 1


async def test_reads_that_all_fail_are_an_error_and_no_scores() -> None:
    async with served(failing(lambda number: True)) as server:
        response = await server.http.post("/v1/score", json=asked(steps=STEPS))
        assert response.status_code == 502
        assert error_of(response)["code"] == "engine_error"
        assert await server.counted("failed") == 1


async def test_a_score_that_is_no_number_is_unscored_and_never_zero() -> None:
    async with served(judging({"part 2": math.nan})) as server:
        (result,) = (await post(server, "/v1/score", asked(steps=STEPS[:2])))["results"]
        assert result["steps"][1]["score"] is None
        assert result["unscored"] == 1


async def test_reads_are_counted_under_their_purpose(server: Served) -> None:
    await post(server, "/v1/score", asked(steps=STEPS))
    metrics = (await server.http.get("/metrics")).text
    assert 'cos_prm_reads_total{strategy="score"} 3.0' in metrics
    assert await server.counted("ok") == 1
