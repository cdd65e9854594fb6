"""What goes over the wire: one definition, which says all that a search says and takes what a newer side adds."""

import json
import math
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any, get_type_hints

import pytest
from pydantic import BaseModel

from cos.search import events as happened
from cos.search import types
from cos.search.result import Result
from cos.search.scale import Scale
from cos.search.spec import SearchSpec
from cos.search.types import Candidate, Chain, Piece, Question
from cos.wire.events import Answered, Event, Opened, Proposed, Scored, Selected, decoded, encoded
from cos.wire.job import Job
from cos.wire.reply import Solution, Stages, Timings, Usage
from cos.wire.request import Budget, BudgetOptions, Options, SearchOptions
from cos.wire.trace import VERSION, read_trace

LONG = "no step at all " * 100
SCALE = Scale(aggregation="min", threshold=0.4, lowest=-math.inf, highest=1.0, is_probability=False)


def candidate(path: tuple[int, ...], piece: Piece, end: types.End, score: float | None) -> Candidate:
    return Candidate(path=path, written=tuple(range(3)), tokens=3, piece=piece, end=end, score=score, logprob=-1.5)


STEP = candidate((0,), Piece("step", "Read: 12.", {"name": "Read", "rest": "12."}), "step", 0.75)
ANSWER = candidate((0, 0), Piece("answer", "12"), "answer", 0.5)
BROKEN = candidate((1,), Piece("broken", LONG), "broken", math.nan)


def job(**given: Any) -> Job:
    question = Question("How many?", choices=("12", "13"))
    return Job(id="solve-1", model="m", question=question, spec=SearchSpec("greedy"), scale=SCALE, **given)


def result() -> Result:
    chain = Chain((STEP, ANSWER))
    ruler = job().spec.ruler(SCALE)
    return Result(
        chain=chain,
        ruler=ruler,
        value=ruler.value(chain),
        finish_reason="answer",
        usage=types.Usage(tokens_generated=9, tokens_kept=6, tokens_discarded=3),
        timings=types.Timings(first_candidate_s=0.1, total_s=0.5),
        tree=(STEP, ANSWER, BROKEN),
        warnings=("a warning of the search",),
    )


def stored() -> dict[str, Any]:
    trace = job().trace(
        result(),
        ended=datetime(2026, 1, 2, tzinfo=UTC),
        file_of=lambda picture: f"images/{picture.digest}.png",
        policy="p",
        grammar="g",
        prm="q",
    )
    return json.loads(trace.model_dump_json())


@pytest.mark.parametrize(("told", "known"), [(Usage, types.Usage), (Stages, types.Stages), (Timings, types.Timings)])
def test_all_that_a_search_counts_is_told(told: type[BaseModel], known: type[Any]) -> None:
    assert set(told.model_fields) == {field.name for field in fields(known)}


@pytest.mark.parametrize(
    ("arguments", "model", "more"),
    [(Options, SearchOptions, {"choices", "history", "strategy_params"}), (Budget, BudgetOptions, set[str]())],
)
def test_the_clients_arguments_are_the_servers_options(
    arguments: type[Any], model: type[BaseModel], more: set[str]
) -> None:
    assert set(get_type_hints(arguments)) == set(model.model_fields) | more


def test_a_solution_says_what_the_result_says() -> None:
    told = job(warnings=("a warning of the request",), return_tree=True).solution(result())
    assert (told.answer, told.choice, told.complete, told.finish_reason) == ("12", "12", True, "answer")
    assert [step.text for step in told.steps] == ["Read: 12."]
    assert told.steps[0].fields == {"name": "Read", "rest": "12."}
    assert (told.answer_score, told.chain_score) == (0.5, 0.5)
    assert told.confidence is None, "this scale has no lower end"
    assert told.warnings[:2] == ("a warning of the request", "a warning of the search")
    assert told.tree is not None
    assert [(found.path, found.kept, found.answer) for found in told.tree] == [
        ((0,), True, None),
        ((0, 0), True, "12"),
        ((1,), False, None),
    ]
    assert told.tree[2].text == LONG, "no text is cut"
    assert job().solution(result()).tree is None


def test_what_the_policy_wrote_beside_its_answer_is_told() -> None:
    answer = candidate((0, 0), Piece("answer", "12", {"reasoning": "7 + 5 = 12."}), "answer", 0.5)
    found = replace(result(), chain=Chain((STEP, answer)))
    assert job().solution(found).answer_fields == {"reasoning": "7 + 5 = 12."}
    assert job().solution(result()).answer_fields == {}
    assert job().solution(replace(result(), chain=Chain((STEP,)))).answer_fields == {}


def test_what_is_in_force_is_told_where_the_prms_own_scale_decides() -> None:
    parameters = job().parameters
    assert (parameters["aggregation"], parameters["step_weight"], parameters["score"]) == ("min", 0.2, "prm")
    assert parameters["choices"] == ["12", "13"]
    assert parameters["budget"] == {"tokens": None, "prm_reads": None, "seconds": None}


def shape(model: type[BaseModel], value: dict[str, Any]) -> None:
    """Errors: AssertionError where the value has other fields than the model."""
    assert set(value) == set(model.model_fields), model


def test_a_reply_has_the_fields_of_its_schema_and_no_number_that_is_none() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in JSON")

    text = job(return_tree=True).solution(result()).model_dump_json()
    reply = json.loads(text, parse_constant=refuse)
    shape(Solution, reply)
    shape(Usage, reply["usage"])
    shape(Timings, reply["timings"])
    shape(Stages, reply["timings"]["stages"])
    for found in (*reply["steps"], *reply["tree"]):
        assert set(found) == {"path", "text", "fields", "answer", "end", "score", "tokens", "logprob", "kept"}
    assert reply["tree"][2]["score"] is None


@pytest.mark.parametrize(
    ("event", "name", "told"),
    [
        (happened.Opened("beam", 7), "opened", Opened),
        (happened.Proposed(STEP), "candidate", Proposed),
        (happened.Scored((0,), None), "scored", Scored),
        (happened.Selected(((0,),), ((1,),)), "selected", Selected),
        (happened.Answered(result()), "answered", Answered),
    ],
)
def test_an_event_is_read_as_what_was_sent(event: happened.Event, name: str, told: type[Event]) -> None:
    sent = job().event(event)
    found_name, data = encoded(sent)
    assert found_name == name
    assert isinstance(sent, told)
    assert decoded(name, data.encode()) == sent


def test_a_reader_takes_what_a_newer_server_adds() -> None:
    reply = json.loads(job(return_tree=True).solution(result()).model_dump_json())
    reply["novelty"], reply["finish_reason"] = {"a": 1}, "bored"
    reply["tree"][0] |= {"end": "leap", "novelty": 2}
    found = Solution.model_validate(reply)
    assert (found.finish_reason, found.tree and found.tree[0].end) == ("bored", "leap")
    assert json.loads(found.model_dump_json()) == reply
    assert decoded("novelty", b"{}") is None


def test_a_stored_trace_is_read_as_it_was_written() -> None:
    trace = stored()
    assert trace["version"] == VERSION
    assert trace["scale"] == {
        "is_probability": False,
        "threshold": 0.4,
        "lowest": None,
        "highest": 1.0,
        "judges": "steps",
    }
    assert trace["tree"][2]["text"] == LONG
    read = read_trace(json.dumps({**trace, "novelty": 1}).encode())
    assert read.is_judged
    assert json.loads(read.model_dump_json()) == {**trace, "novelty": 1}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "a trace of version None, and this program reads version 3"),
        (json.dumps({**stored(), "version": 1}).encode(), "a trace of version 1"),
        (json.dumps({**stored(), "question": 3}).encode(), "question: "),
        (json.dumps({**stored(), "tree": [{"path": [0]}]}).encode(), "tree.0.text: Field required"),
    ],
)
def test_what_is_no_trace_of_this_version_is_named(document: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_trace(document)
