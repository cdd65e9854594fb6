"""Reads ShareGPT-Step-300K as published: conversations in InternVL's JSONL format.

    {"id": ..., "image": "geo/1.png", "conversations": [{"from": "human", "value": "<image>\\nQuestion"},
                                                        {"from": "gpt", "value": "<|reasoning_start|>..."}]}

The format is read off the released serialiser and InternVL's loader (baaivision/CoS); the published files themselves
were not looked at. White space around control tokens is tolerated, as slow tokenizers put some there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from cos.search.grammar import (
    ANSWER_END,
    ANSWER_START,
    NAME_END,
    NAME_START,
    REFLECTION_END,
    REFLECTION_START,
    STEP_END,
    STEP_START,
    STEP_TAG,
    THOUGHT_END,
    THOUGHT_START,
)
from cos.search.types import Step
from cos.training.rows import ChainRow, ProblemRow

IMAGE = "<image>"


def _between(start: str, end: str) -> str:
    return rf"{re.escape(start)}\s*(.*?)\s*{re.escape(end)}"


_STEP = re.compile(_between(STEP_START, STEP_END), re.DOTALL)
_FIELDS = tuple(
    re.compile(_between(start, end), re.DOTALL)
    for start, end in ((NAME_START, NAME_END), (THOUGHT_START, THOUGHT_END), (REFLECTION_START, REFLECTION_END))
)
_ANSWER = re.compile(_between(ANSWER_START, ANSWER_END), re.DOTALL)


def chain_of(row: Mapping[str, Any]) -> ChainRow:
    """One conversation as a chain. Errors: ValueError saying what is missing."""
    name, image = row.get("id"), row.get("image")
    if not isinstance(name, str | int):
        raise ValueError("id: missing")
    if not isinstance(image, str):
        raise ValueError("image: missing, or several: a chain has one picture")
    turns = cast("list[Mapping[str, Any]]", row["conversations"])
    spoken = [(turn.get("from"), str(turn.get("value", ""))) for turn in turns if turn.get("from") != "system"]
    if [who for who, _ in spoken] != ["human", "gpt"]:
        raise ValueError(f"conversations: one question and one reply are needed, not {[who for who, _ in spoken]}")
    (_, asked), (_, reply) = spoken
    steps, answer = steps_of(reply)
    question = asked.replace(IMAGE, "").strip()
    problem = ProblemRow(id=str(name), image=image, question=question, answer=answer)
    return ChainRow(id=f"{name}/0", problem=problem, steps=steps, answer=answer)


def steps_of(text: str) -> tuple[tuple[Step, ...], str]:
    """Steps and answer of a reply. Errors: ValueError for a step that lacks a field, or no answer."""
    text = text.replace(STEP_TAG, "")
    steps: list[Step] = []
    for number, found in enumerate(_STEP.findall(text), start=1):
        fields = [field.search(found) for field in _FIELDS]
        if None in fields:
            raise ValueError(f"step {number} lacks its name, thought or reflection")
        name, thought, reflection = (field[1] for field in fields if field is not None)
        steps.append(Step(name, thought, reflection))
    answer = _ANSWER.search(text)
    if answer is None or not answer[1]:
        raise ValueError("there is no answer between its tokens")
    return tuple(steps), answer[1]
