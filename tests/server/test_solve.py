"""POST /solve as it is meant to be used."""

import json
import math

import pytest

from cos.engines.scripted import Script, ScriptedEngine, ScriptedSession
from cos.search.prompt import Prompt
from cos.search.strategies import menu
from tests.server.support import Served, body, error_of, picture_bytes, served


def without_markup(*_: object) -> str:
    return "no markup at all"


def unable(*_: object) -> float:
    return math.nan


async def test_a_reply_tells_answer_steps_scores_parameters_and_cost(server: Served) -> None:
    response = await server.solve(strategy="best_of_n", n=4, seed=7)
    reply = response.json()
    assert response.status_code == 200
    assert reply["complete"] is True
    assert reply["finish_reason"] == "answer"
    assert reply["answer"].isdecimal()
    assert reply["model"] == "scripted"
    assert [len(step["path"]) for step in reply["steps"]] == [1, 2, 3]
    assert all(0 <= step["score"] <= 1 for step in reply["steps"])
    assert reply["confidence"] == pytest.approx(reply["chain_score"])
    assert reply["parameters"]["seed"] == 7
    assert reply["parameters"]["n"] == 4
    usage = reply["usage"]
    outcomes = ("kept", "duplicate", "asked", "aborted", "discarded")
    assert sum(usage[f"tokens_{outcome}"] for outcome in outcomes) == usage["tokens_generated"]
    assert usage["candidates"] == 16
    assert reply["timings"]["total_s"] > 0
    assert reply["tree"] is None


async def test_a_tree_on_request_marks_the_winning_chain(server: Served) -> None:
    reply = (await server.solve(strategy="beam", n=4, beam_width=2, return_tree=True)).json()
    paths = [tuple(candidate["path"]) for candidate in reply["tree"]]
    kept = [candidate for candidate in reply["tree"] if candidate["kept"]]
    assert paths == sorted(paths)
    assert len(paths) == reply["usage"]["candidates"]
    assert len(kept) == len(reply["steps"]) + 1
    assert kept[-1]["answer"] == reply["answer"]
    assert kept[:-1] == reply["steps"]
    assert {path[:-1] for path in paths} <= {(), *paths}, "every parent is there"
    assert sum(candidate["tokens"] for candidate in kept) == reply["usage"]["tokens_kept"]


async def test_the_same_parameters_give_the_same_tree(server: Served) -> None:
    first = (await server.solve(seed=None, return_tree=True)).json()
    again = (await server.solve(seed=first["parameters"]["seed"], return_tree=True)).json()
    assert first["tree"] == again["tree"]


async def test_without_a_seed_every_search_draws_its_own(server: Served) -> None:
    seeds = {(await server.solve(seed=None)).json()["parameters"]["seed"] for _ in range(4)}
    assert len(seeds) == 4


@pytest.mark.parametrize("name", sorted(menu()))
async def test_every_strategy_answers(server: Served, name: str) -> None:
    reply = (await server.solve(strategy=name, n=None)).json()
    assert reply["complete"] is True
    assert reply["strategy"] == name


async def test_aliases_and_dashes_name_strategies_too(server: Served) -> None:
    assert (await server.solve(strategy="bon")).json()["strategy"] == "best_of_n"
    assert (await server.solve(strategy="best-of-n")).json()["strategy"] == "best_of_n"


async def test_a_form_with_a_file_asks_the_same_as_json(server: Served) -> None:
    fields = {"question": "How many rows?", "n": "2", "seed": "0", "temperature": "0.7", "return_tree": "true"}
    form = await server.http.post(
        "/v1/solve", data=fields, files={"image": ("../../x.png", picture_bytes(), "image/png")}
    )
    plain = await server.solve(n=2, seed=0, temperature=0.7, return_tree=True)
    assert form.status_code == 200, form.text
    assert form.json()["tree"] == plain.json()["tree"]


async def test_a_question_in_a_form_stays_text_even_if_it_looks_like_a_number(server: Served) -> None:
    form = await server.http.post(
        "/solve",
        data={"question": "12", "budget": '{"tokens": 5000}'},
        files={"image": ("x.png", picture_bytes(), "image/png")},
    )
    assert form.json()["question"] == "12"
    assert form.json()["parameters"]["budget"]["tokens"] == 5000


async def test_bare_base64_is_an_image_too(server: Served) -> None:
    image = body()["image"].partition(",")[2]
    assert (await server.solve(image=f"{image[:40]}\n{image[40:]}")).status_code == 200


async def test_null_is_the_same_as_not_given(server: Served) -> None:
    response = await server.http.post("/solve", json={**body(), "temperature": None, "strategy": None})
    assert response.json()["parameters"]["temperature"] == 1.0


async def test_a_budget_that_runs_out_gives_the_best_chain_so_far(server: Served) -> None:
    reply = (await server.solve(n=2, budget={"tokens": 250})).json()
    assert reply["complete"] is False
    assert reply["finish_reason"] in ("tokens", "truncated")
    assert reply["answer"] is None
    assert reply["usage"]["tokens_generated"] <= 250
    assert await server.counted("partial") == 1


async def test_a_broken_step_is_shown_as_text() -> None:
    async with served(Script(writer=without_markup)) as server:
        reply = (await server.solve(step_tokens=12)).json()
    assert reply["complete"] is False
    assert reply["steps"][0]["fields"] == {}
    assert reply["steps"][0]["end"] in ("broken", "truncated")
    assert reply["steps"][0]["text"] == "no markup at"


async def test_no_reply_contains_a_number_that_is_none() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in JSON")

    async with served(Script(judge=unable)) as server:
        response = await server.solve(strategy="greedy", n=None, return_tree=True)
        streamed = await server.solve(strategy="greedy", n=None, stream=True)
    reply = json.loads(response.text, parse_constant=refuse)
    assert reply["confidence"] is None
    assert reply["usage"]["unscored"] == reply["usage"]["candidates"]
    assert "NaN" not in streamed.text


async def test_a_server_without_a_prm_ranks_by_likelihood() -> None:
    async with served(prm="none") as server:
        reply = (await server.solve()).json()
        refused = await server.solve(score="prm")
    assert reply["parameters"]["score"] == "likelihood"
    assert reply["usage"]["prm_reads"] == 0
    assert 0 <= reply["confidence"] <= 1
    assert refused.status_code == 422
    assert "without a PRM" in error_of(refused)["message"]


async def test_each_model_is_shown_its_own_suffix_behind_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[ScriptedEngine, str]] = []

    async def noted(self: ScriptedEngine, prompt: Prompt) -> ScriptedSession:
        opened.append((self, prompt.asked))
        return await open_(self, prompt)

    open_ = ScriptedEngine.open
    monkeypatch.setattr(ScriptedEngine, "open", noted)
    async with served(policy_suffix="Think.", prm_suffix="Judge.") as server:
        await server.solve()
        shown = {"policy" if engine is server.policy else "prm": text for engine, text in opened}
    assert shown == {"policy": "How many rows?\nThink.", "prm": "How many rows?\nJudge."}


async def test_the_servers_defaults_are_those_it_was_started_with() -> None:
    async with served(strategy="beam", n=4) as server:
        reply = (await server.solve(n=None)).json()
        assert (reply["strategy"], reply["parameters"]["n"]) == ("beam", 4)
        assert (await server.solve(strategy="greedy", n=None)).status_code == 200
    async with served(max_n=3) as server:
        assert (await server.solve(n=None)).json()["parameters"]["n"] == 3


async def test_questions_without_an_image_where_the_server_lets_them_in() -> None:
    async with served(image_required=False) as server:
        assert (await server.solve(image=None)).json()["complete"] is True
