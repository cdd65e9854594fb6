"""What is read from JSONL: rows as they are declared, and every other line named by file, line and fault."""

import json
import logging
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from cos.search.errors import InputError
from cos.search.grammars.cos import Step
from cos.training.config.keys import ProblemSource
from cos.training.data.preflight import Intake
from cos.training.data.problems import images_of, problems_of
from cos.training.data.rows import (
    ChainRow,
    PairedChain,
    PairRow,
    ProblemRow,
    TagLabel,
    check_gold,
    holds_chains,
    read_rows,
    write_rows,
)
from cos.training.data.sources import RowKeys, files_of
from cos.training.runs.folder import StageContext

PROBLEM = {"id": "p", "image": "p.png", "question": "How many?", "answer": "5"}
STEP = {"name": "Read", "thought": "I see 5.", "reflection": "-"}
LABELS = [{"soft": 1.0, "hard": True}, {"soft": 0.5, "hard": False}]
CHAIN: dict[str, Any] = {"id": "p/0", "problem": PROBLEM, "steps": [STEP], "answer": "5"}
BOM = "\ufeff"


def chain(**changes: object) -> str:
    return json.dumps({**CHAIN, **changes})


def about(**changes: object) -> str:
    return chain(problem={**PROBLEM, **changes})


MALFORMED = {
    "NaN score": (chain(scores=[float("nan"), 0.5]), "NaN is no number"),
    "infinite score": (chain(scores=[0.5, float("inf")]), "Infinity is no number"),
    "score too large": (chain(scores=[0.5, 1]).replace("1]", "1e999]"), "1e999 is no number"),
    "NaN label": (chain(labels={"exact": [{"soft": float("nan"), "hard": True}, LABELS[0]]}), "NaN is no number"),
    "infinite likelihood": (chain(logprob=float("-inf")), "-Infinity is no number"),
    "NaN in notes": (about(meta={"difficulty": float("nan")}), "NaN is no number"),
    "key twice": (chain()[:-1] + ', "answer": "6"}', "key 'answer' stands twice in one object"),
    "key of a problem twice": (about().replace('"id": "p",', '"id": "p", "id": "q",'), "key 'id' stands twice"),
    "unknown key": (chain(lables={}), "lables: no such key"),
    "unknown key of a problem": (
        about(source="web"),
        "problem.source: no such key; notes belong into a problem's meta",
    ),
    "unknown key of a step": (chain(steps=[{**STEP, "score": 1}]), "steps.0.score: no such key"),
    "unknown key of a label": (chain(labels={"exact": [{**LABELS[0], "why": ""}] * 2}), "why: no such key"),
    "unknown source": (chain(labels={"me": LABELS}), "labels.me"),
    "label above 1": (chain(labels={"exact": [{"soft": 1.5, "hard": True}, LABELS[0]]}), "less than or equal to 1"),
    "label in part": (chain(labels={"exact": [{"soft": 1.0}, LABELS[0]]}), "hard: Field required"),
    "label a number": (chain(labels={"exact": [1, 0]}), "labels.exact.0"),
    "too few labels": (chain(labels={"exact": LABELS[:1]}), "1 labels by 'exact' for 2 tags"),
    "no labels": (chain(labels={"exact": []}), "0 labels by 'exact' for 2 tags"),
    "too many scores": (chain(scores=[0.1, 0.2, 0.3]), "3 scores for 2 tags"),
    "score a text": (chain(scores=["0.5", 0.5]), "scores.0"),
    "steps null": (chain(steps=None), "steps"),
    "steps texts": (chain(steps=["I see 5."]), "steps.0"),
    "step in part": (chain(steps=[{"name": "Read"}]), "steps.0.thought: Field required"),
    "answer null": (chain(answer=None), "answer"),
    "answer a number": (chain(answer=5), "answer"),
    "right a number": (chain(right=1), "right"),
    "id a number": (chain(id=7), "id"),
    "problem null": (chain(problem=None), "problem"),
    "problem a name": (chain(problem="p"), "problem"),
    "question missing": (about().replace('"question": "How many?", ', ""), "problem.question: Field required"),
    "image a number": (about(image=7), "problem.image"),
    "image a list": (about(image=["p.png"]), "problem.image"),
    "notes a list": (about(meta=[]), "problem.meta"),
    "half a surrogate pair": (about(question="\ud83d"), "surrogate"),
    "a list": (f"[{chain()}]", "a JSON object is needed, not a list; a file holds one object a line"),
    "a text": ('"row"', "a JSON object is needed, not text"),
    "null": ("null", "a JSON object is needed, not null"),
    "cut": (chain()[:40], "not JSON"),
    "two rows": (chain() + chain(), "not JSON: Extra data"),
    "single quotes": (str(CHAIN), "not JSON"),
    "deep": ('{"meta": ' + "[" * 200_000, "stand too deep in each other"),
    "a duplicate": (chain(id="first"), "id 'first' is on line 1 already"),
}


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(("line", "said"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_row_is_refused_by_file_line_and_fault(tmp_path: Path, line: str, said: str) -> None:
    file = write(tmp_path / "rows.jsonl", chain(id="first"), line)
    with pytest.raises(InputError) as caught:
        list(read_rows(file, ChainRow))
    assert str(caught.value).startswith(f"{file}:2: ")
    assert said in str(caught.value)


def test_malformed_rows_are_left_out_counted_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    skipped: list[str] = []
    file = write(
        tmp_path / "rows.jsonl", chain(id="first"), *(line for line, _ in MALFORMED.values()), chain(id="last")
    )
    rows = list(read_rows(file, ChainRow, skip_bad=True, skipped=skipped))
    with caplog.at_level(logging.WARNING, "cos.training.data.rows"):
        assert list(read_rows(file, ChainRow, skip_bad=True)) == rows
    assert [row.id for row in rows] == ["first", "last"]
    assert [message.split(": ")[0] for message in skipped] == [f"{file}:{n}" for n in range(2, len(MALFORMED) + 2)]
    assert f"{len(MALFORMED)} bad lines skipped" in caplog.text


@pytest.mark.parametrize("content", [b"\xff\xfe{\x00}\x00\n", '{"id": "größe"}\n'.encode("latin-1")], ids=["16", "1"])
def test_another_encoding_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"rows\.jsonl:1: not UTF-8 .*save the file as UTF-8"):
        list(read_rows(file, ChainRow))


def test_a_byte_order_mark_loses_no_line(tmp_path: Path) -> None:
    first = write(tmp_path / "rows.jsonl", BOM + chain(id="a"), chain(id="b"), BOM + chain(id="c"))
    assert [row.id for row in read_rows(first, ChainRow)] == ["a", "b", "c"]
    problems = write(tmp_path / "problems.jsonl", BOM + json.dumps(PROBLEM))
    assert [row.id for row in read_rows(problems, ProblemRow)] == ["p"]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    problem = ProblemRow(id="p", image=str(tmp_path / "p.png"), question="Ж\u2028?", answer="5", meta={"by": ["me", 1]})
    steps = (Step("a", "b", "c"),)
    labels = (TagLabel(0.25, False), TagLabel(1.0, True))
    one = ChainRow(id="p/0", problem=problem, steps=steps, answer="5", labels={"published": labels}, scores=(None, 0.5))
    chosen, rejected = (PairedChain(id=name, steps=steps, answer="5") for name in ("p/0", "p/1"))
    pair = PairRow(problem=problem, chosen=chosen, rejected=rejected, chosen_score=1.0, rejected_score=0.0)
    for number, row in enumerate((problem, one, pair)):
        write_rows(tmp_path / str(number), [row])
        assert list(read_rows(tmp_path / str(number), cast(Any, type(row)))) == [row]


def test_a_file_of_chains_is_told_by_its_first_object(tmp_path: Path) -> None:
    assert holds_chains(write(tmp_path / "a", "", "{", BOM + chain()))
    assert holds_chains(write(tmp_path / "b", json.dumps({"conversations": None})))
    assert not holds_chains(write(tmp_path / "c", json.dumps(PROBLEM), chain()))
    assert not holds_chains(write(tmp_path / "d", "[]"))
    assert not holds_chains(tmp_path / "missing")


def test_problems_of_which_gold_is_not_known_are_not_asked(tmp_path: Path) -> None:

    file = write(tmp_path / "chains.jsonl", about(answer=""))
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    where = StageContext(folder=tmp_path / "rollout", runs=tmp_path)
    with pytest.raises(InputError, match="problem 'p' has no gold answer, which is needed here"):
        problems_of(ProblemSource(data=(str(file),)), where, Intake(where))
    check_gold([])


def test_pictures_that_lie_elsewhere_are_found_by_their_folder(tmp_path: Path) -> None:
    where = StageContext(folder=tmp_path / "sft", runs=tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "data").mkdir()
    lines = (chain(), about(id="q").replace("p/0", "q/0"), about(image="/elsewhere/p.png").replace("p/0", "r/0"))
    file = write(tmp_path / "data" / "chains.jsonl", *lines)
    keys = RowKeys(images="pictures")
    rows = Intake(where).rows_of(files_of([str(file)]), ChainRow, images_of(keys, where))
    here = str(tmp_path / "pictures" / "p.png")
    assert [row.problem.image for row in rows] == [here, here, "/elsewhere/p.png"]
    assert images_of(RowKeys(), where) is None


@pytest.mark.parametrize("key", ["id", "question"])
@pytest.mark.parametrize("text", ["", " \n\t"])
def test_a_problem_without_a_name_or_a_question_is_refused(key: str, text: str, tmp_path: Path) -> None:
    row = {"id": "p", "image": "a.png", "question": "How much?", "answer": "1", key: text}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=rf"rows\.jsonl:1: {key}: empty"):
        list(read_rows(tmp_path / "rows.jsonl", ProblemRow))
