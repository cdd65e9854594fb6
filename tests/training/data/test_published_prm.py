"""Published PRM data: PRM800K, VisualPRM400K and Math-Shepherd, in hand-written rows of their layouts."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from cos.search.errors import InputError
from cos.training.config.recipe import EvaluateConfig, PrmConfig, SftConfig
from cos.training.data.formats import reader_of
from cos.training.data.rows import ChainRow, TagLabel, read_rows
from cos.training.data.sources import ChainSource
from cos.training.stages.evaluate import run_evaluate
from cos.training.stages.prm_training import run_prm
from cos.training.stages.sft import run_sft
from tests.training.stages.test_smoke import KEYS
from tests.training.tiny_models import build
from tests.training.training_support import context

GOOD, BAD = TagLabel(1.0, True), TagLabel(0.0, False)


def said(text: str, rating: Any) -> dict[str, Any]:
    return {"text": text, "rating": rating, "flagged": None}


def rated(*completions: dict[str, Any], chosen: Any = 0, human: Any = None) -> dict[str, Any]:
    return {"completions": [*completions], "human_completion": human, "chosen_completion": chosen}


def prm800k(*steps: Any, **question: Any) -> dict[str, Any]:
    """A line of phase 2, or, with ``pre_generated_steps`` left out, of phase 1."""
    return {
        "labeler": "340d89bc",
        "timestamp": "2023-01-22T04:34:27.052924",
        "generation": 9,
        "is_quality_control_question": False,
        "is_initial_screening_question": False,
        "question": {"problem": "What is 2 + 3?", "ground_truth_answer": "5", **question},
        "label": {"steps": [*steps], "total_time": 278270, "finish_reason": "solution"},
    }


def scored(*steps: Any, **keys: Any) -> dict[str, Any]:
    """A line of VisualPRM400K with the shares of right continuations."""
    return {
        "image": "geo/1.png",
        "question": "<image>\nWhat is x? Think step by step.",
        "question_orig": "<image>\nWhat is x?",
        "answer": "52",
        "response": "...",
        "steps_with_score": [
            {"step": text, "score": score, "num_mc_correct": 0, "num_mc_total": 16} for text, score in steps
        ],
        **keys,
    }


def talked(*turns: tuple[str, str], **keys: Any) -> dict[str, Any]:
    """A line of VisualPRM400K as conversation."""
    told = [("system", "You are an advanced AI assistant."), *turns]
    conversations = [{"from": who, "value": text} for who, text in told]
    return {"id": -1, "image": "geo/1.png", "conversations": conversations, **keys}


FIRST = "### Question:\n<image>\nWhat is x?\n\n### Solution Process:\nThe angle is 52."


def shepherd(label: str, written: str | None = None) -> dict[str, Any]:
    text = "Janet has 2 + 1 eggs? Step 1: She has 3. ки\nStep 2: The answer is: 3 ки" if written is None else written
    return {"input": text, "label": label, "task": "GSM8K"}


SHEPHERD = "Janet has 2 + 1 eggs? Step 1: She has 3. +\nStep 2: The answer is: 3 -"


def read(folder: Path, form: str, *rows: Any, **keys: Any) -> list[ChainRow]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    source = ChainSource.model_validate({"path": str(path), "form": form, **keys})
    return list(read_rows(path, ChainRow, reader=reader_of(source)))


def thoughts(row: ChainRow) -> list[str]:
    return [step.thought for step in row.steps]


def test_a_line_of_prm800k_is_the_way_through_its_chosen_steps(tmp_path: Path) -> None:
    line = prm800k(
        rated(said("I add.", 0)), rated(said("2 + 3 = 5.", 1)), rated(said("So it is 5.\n\n# Answer\n\n5", 1))
    )
    (row,) = read(tmp_path, "prm800k", line)
    assert (row.problem.question, row.problem.answer, row.problem.image) == ("What is 2 + 3?", "5", None)
    assert thoughts(row) == ["I add.", "2 + 3 = 5.", "So it is 5."]
    assert [step.name for step in row.steps] == ["Step 1", "Step 2", "Step 3"]
    assert (row.answer, row.labels) == ("5", {"published": (GOOD, GOOD, GOOD, GOOD)})


def test_rated_alternatives_are_chains_of_their_own_and_no_rating_counts_twice(tmp_path: Path) -> None:
    line = prm800k(rated(said("a", 1), said("b", -1)), rated(said("c", -1), said("d", 0), said("e", None), chosen=None))
    rows = read(tmp_path, "prm800k", line)
    assert [(thoughts(row), row.labels["published"]) for row in rows] == [
        (["b"], (BAD, None)),
        (["a", "c"], (GOOD, BAD, None)),
        (["a", "d"], (None, GOOD, None)),
    ]
    assert {row.answer for row in rows} == {""}
    assert len({row.id for row in rows}) == 3
    assert len({row.problem.id for row in rows}) == 1


@pytest.mark.parametrize("human", [said("I add.", None), said("I add.", 1), "I add."], ids=repr)
def test_what_a_human_wrote_goes_on_as_a_good_step(human: Any, tmp_path: Path) -> None:
    line = prm800k(rated(said("no", -1), chosen=None, human=human), rated(said("# Answer\n\n5", 1)))
    rows = read(tmp_path, "prm800k", line)
    assert [(thoughts(row), row.answer, row.labels["published"]) for row in rows] == [
        (["no"], "", (BAD, None)),
        (["I add."], "5", (GOOD, GOOD)),
    ]


def test_scores_of_visualprm_are_soft_labels_and_good_above_a_threshold(tmp_path: Path) -> None:
    line = scored(("One.", 0.625), ("Two.", 0.125), ("Final answer: 50", 0))
    (row,) = read(tmp_path, "visualprm", line)
    assert (row.problem.question, row.problem.answer) == ("What is x?", "52")
    assert row.problem.image == str(tmp_path / "geo" / "1.png")
    assert thoughts(row) == ["One.", "Two.", "Final answer: 50"]
    assert row.labels["published"] == (TagLabel(0.625, True), TagLabel(0.125, True), BAD, None)
    (row,) = read(tmp_path, "visualprm", line, good_above=0.5)
    assert row.labels["published"] == (TagLabel(0.625, True), TagLabel(0.125, False), BAD, None)
    bare = {key: value for key, value in line.items() if key != "question_orig"} | {"image": ["geo/1.png"]}
    (row,) = read(tmp_path, "visualprm", bare)
    assert row.problem.question == "What is x? Think step by step."


def test_conversations_of_visualprm_are_steps_with_signs(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "visualprm", talked(("human", FIRST), ("gpt", "+"), ("human", "So 50."), ("gpt", "-")))
    assert (row.problem.question, thoughts(row)) == ("What is x?", ["The angle is 52.", "So 50."])
    assert row.labels["published"] == (GOOD, BAD, None)
    bare = talked(("human", FIRST.replace("<image>\n", "")), ("gpt", "+"), image=None)
    assert read(tmp_path, "visualprm", bare)[0].problem.image is None


def test_a_line_of_math_shepherd_is_a_chain_with_its_answer(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "math_shepherd", shepherd(SHEPHERD))
    assert (row.problem.question, row.problem.answer) == ("Janet has 2 + 1 eggs?", "")
    assert (thoughts(row), row.answer) == (["She has 3."], "3")
    assert row.labels["published"] == (GOOD, BAD)
    (row,) = read(tmp_path, "math_shepherd", shepherd(SHEPHERD[:-1] + "+"))
    assert row.problem.answer == "3"


REFUSED: dict[str, tuple[str, Any, str]] = {
    "no rating": ("prm800k", prm800k(rated(said("a", None))), "no step is rated"),
    "a rating of 2": ("prm800k", prm800k(rated(said("a", 2))), "label.steps.0.completions.0.rating: 2"),
    "a rating that is true": ("prm800k", prm800k(rated(said("a", True))), "rating: True"),
    "a choice that is not there": ("prm800k", prm800k(rated(said("a", 1), chosen=1)), "1 is none of the 1 completions"),
    "nothing chosen": ("prm800k", prm800k(rated(said("a", 1), chosen=None), rated(said("b", 1))), "a step follows"),
    "no completions": ("prm800k", prm800k({"completions": None}), "label.steps.0.completions: a list is needed"),
    "a step that is text": ("prm800k", prm800k("a"), "label.steps.0: an object is needed, not text"),
    "no question": ("prm800k", prm800k(rated(said("a", 1)), problem=None), "question.problem: text is needed"),
    "no gold": ("prm800k", prm800k(rated(said("a", 1)), ground_truth_answer=7), "question.ground_truth_answer"),
    "rows of one's own": ("prm800k", {"id": "p", "question": "Why?", "answer": "5"}, "question: an object is needed"),
    "no steps": ("visualprm", scored(), "there is no step"),
    "a score above 1": ("visualprm", scored(("a", 1.5)), "steps_with_score.0.score"),
    "a score of text": ("visualprm", scored(("a", "0.5")), "steps_with_score.0.score"),
    "an empty step": ("visualprm", scored((" ", 0.5)), "steps_with_score.0.step: text is needed"),
    "pictures": ("visualprm", scored(("a", 0.5), image=["a.png", "b.png"]), "image: 2 pictures"),
    "no picture": ("visualprm", scored(("a", 0.5), image=None), "<image> stands in the question, and the row has no"),
    "two marks": ("visualprm", scored(("a", 0.5), question_orig="<image>\n<image>\nx?"), "<image> stands more than"),
    "no solution": ("visualprm", talked(("human", "What?"), ("gpt", "+")), "'### Question:' and '### Solution"),
    "another reply": ("visualprm", talked(("human", FIRST), ("gpt", "good")), "the reply 'good'; replies are"),
    "half a turn": ("visualprm", talked(("human", FIRST)), "have to take turns"),
    "no turns": ("visualprm", talked(), "have to take turns"),
    "another text": ("math_shepherd", shepherd(SHEPHERD.replace("3.", "4.")), "label: step 1 is not that of input"),
    "another sign": ("math_shepherd", shepherd(SHEPHERD[:-1] + "?"), "label: step 2 is not that of input"),
    "no step 1": ("math_shepherd", shepherd("Why? 3 +", "Why? 3 ки"), "there is no 'Step 1:' in it"),
    "a label too early": ("math_shepherd", shepherd("Why? + Step 1: 3 +", "Why? ки Step 1: 3 ки"), "before the first"),
    "no label": ("math_shepherd", shepherd("Why? Step 1: 3", "Why? Step 1: 3"), "there is no 'ки' in it"),
    "text behind": (
        "math_shepherd",
        shepherd("Why? Step 1: 3 + 4", "Why? Step 1: 3 ки 4"),
        "text behind the last 'ки'",
    ),
    "label null": ("math_shepherd", {"input": "Why? Step 1: 3 ки", "label": None}, "label: text is needed, not null"),
}


@pytest.mark.parametrize(("form", "row", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_has_another_layout_is_refused_by_file_line_and_fault(
    form: str, row: Any, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, form, row)
    assert str(caught.value).startswith(f"{tmp_path / 'rows.jsonl'}:1: ")
    assert said in str(caught.value)


def test_a_threshold_without_scores_is_refused() -> None:
    with pytest.raises(ValidationError, match="good_above is for the scores of form: visualprm"):
        ChainSource.model_validate({"path": "a", "form": "prm800k", "good_above": 0.5})


def test_labels_that_say_nothing_are_refused(tmp_path: Path) -> None:
    problem = {"id": "p", "question": "Why?", "answer": "5"}
    row = {"id": "p/0", "problem": problem, "steps": [], "answer": "5", "labels": {"judge": [None]}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match="labels by 'judge' are all null"):
        list(read_rows(tmp_path / "rows.jsonl", ChainRow))


def test_a_prm_learns_from_all_three_mixed_and_is_measured_on_them(tmp_path: Path) -> None:
    (tmp_path / "geo").mkdir()
    Image.effect_noise((56, 56), 80).convert("RGB").save(tmp_path / "geo" / "1.png")
    files: list[dict[str, Any]] = []
    lines = {
        "prm800k": prm800k(rated(said("a", 1), said("b", -1)), rated(said("# Answer\n\n5", 1))),
        "visualprm": scored(("One.", 0.625), ("Two.", 0)),
        "math_shepherd": shepherd(SHEPHERD),
    }
    for form, line in lines.items():
        path = tmp_path / f"{form}.jsonl"
        path.write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
        files.append({"path": str(path), "form": form, "weight": 1})
    model = str(build(tmp_path / "model", "internvl"))
    keys = {**KEYS, "model": model, "chains": files, "labels": "published", "target": "soft", "until_error": True}
    where = context(tmp_path / "runs", "prm")
    run_prm(PrmConfig.model_validate(keys), where)
    outcome = json.loads((where.folder / "done.json").read_text())["outcome"]
    assert (outcome["rows"], [one["rows"] for one in outcome["sources"]]) == (4, [2, 1, 1])
    chains = [{key: value for key, value in one.items() if key != "weight"} for one in files]
    measured = {"prm": "scripted", "chains": chains, "labels": "published", "calibration_share": 0}
    run_evaluate(EvaluateConfig.model_validate(measured), context(tmp_path / "measured", "evaluate"))
    found = json.loads((tmp_path / "measured" / "evaluate" / "evaluation.json").read_text())
    assert found["tags"] == 7


def test_chains_without_an_answer_are_imitated_by_nobody(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(prm800k(rated(said("a", 1)))) + "\n")
    keys = {"model": "nowhere", "data": [{"path": str(path), "form": "prm800k"}], "steps": 1}
    with pytest.raises(InputError, match="1 of 1 chains have no answer, such as 'rows-1/0'"):
        run_sft(SftConfig.model_validate(keys), context(tmp_path, "sft"))
