"""ShareGPT-Step-300K's conversations become chains."""

import json
from pathlib import Path

import pytest

from cos.search.errors import InputError
from cos.search.grammar import render_segments
from cos.search.types import Step
from cos.training.rows import ChainRow, read_rows

STEPS = (
    Step("Read the bars", "2019 shows 40, 2020 shows 55.", "Both are printed."),
    Step("Subtract", "55 - 40 = 15.", ""),
)
REPLY = "".join(render_segments(STEPS, "15"))


def conversation(reply: str = REPLY, **changes: object) -> str:
    turns = [{"from": "human", "value": "<image>\nBy how much did it rise?"}, {"from": "gpt", "value": reply}]
    return json.dumps({"id": 7, "image": "charts/7.png", "conversations": turns, **changes})


def test_a_conversation_is_a_chain_about_its_picture(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text(conversation() + "\n")
    (row,) = read_rows(file, ChainRow)
    assert (row.steps, row.answer) == (STEPS, "15")
    assert row.problem.question == "By how much did it rise?"
    assert row.problem.image == str(tmp_path / "charts" / "7.png")


def test_white_space_around_control_tokens_is_tolerated(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text(conversation(REPLY.replace("<|", " <|").replace("|>", "|> ")) + "\n")
    (row,) = read_rows(file, ChainRow)
    assert (row.steps, row.answer) == (STEPS, "15")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (conversation(REPLY.replace("<|answer_end|>", "")), "no answer"),
        (conversation(REPLY.replace("<|reasoning_step_thought_end|>", "")), "step 1 lacks"),
        (conversation(image=["a.png", "b.png"]), "several"),
        (conversation(conversations=[]), "one question and one reply"),
    ],
)
def test_a_conversation_that_is_no_chain_is_named_by_file_and_line(tmp_path: Path, line: str, what: str) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text(conversation() + "\n" + line.replace('"id": 7', '"id": 8') + "\n")
    with pytest.raises(InputError, match=rf"data\.jsonl:2: .*{what}"):
        list(read_rows(file, ChainRow))
