"""Reads VisualPRM400K's lines (OpenGVLab; arXiv 2503.10291), scored steps and conversations.

    {"image": "geo/1.png", "question": "<image>\\n...", "question_orig": "...", "answer": "52", "steps_with_score":
     [{"step": "...", "score": 0.125}, ...]}
    {"image": "geo/1.png", "conversations": [{"from": "system", "value": ...}, {"from": "human", "value":
     "### Question:\\n...\\n\\n### Solution Process:\\n..."}, {"from": "gpt", "value": "+"}, {"from": "human", "value":
     "..."}, {"from": "gpt", "value": "-"}, ...]}

The layouts are those that InternVL's data pipeline reads and writes (OpenGVLab/InternVL,
internvl_chat/tools/reasoning_data_pipeline); the published files themselves were not looked at.

Read:

- A step is good where its score, the share of continuations that ended right, is above ``good_above``. The score itself
  is the soft label. In conversations ``+`` is good and ``-`` bad.
- ``question_orig``, where it stands, is the question: ``question`` may have an instruction around it. ``<image>`` at
  its beginning or end is left out, as the picture is always shown first.
- The steps say the answer in words of their own: no answer is cut out of them. The chain's own answer is empty, and its
  tag has no label. ``answer`` is gold.
- The system turn is not read: prompts have the checkpoint's own. Other keys are not looked at.

Refused: several pictures, no step, a score that is no share, turns in another order or with other replies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cos.training.data.plain_chains import IMAGE, PlainChain, list_at, mapping_at, text_at
from cos.training.data.rows import ChainRow, TagLabel, kind_of

FIRST = re.compile(r"\s*### Question:\n(?P<question>.*?)\n\n### Solution Process:\n(?P<step>.*)", re.DOTALL)
"""The first turn of a conversation."""
REPLIES = {"+": TagLabel(1.0, True), "-": TagLabel(0.0, False)}


def chains_of(row: Mapping[str, Any], name: str, good_above: float) -> list[ChainRow]:
    """The chain of a line. ``name`` is put into its id. Errors: ValueError saying what is wrong with the line."""
    asked, steps, labels, gold = _conversation(row) if "conversations" in row else _scored(row, good_above)
    image, question = _picture(row.get("image")), _question(asked)
    if IMAGE in asked and image is None:
        raise ValueError(f"{IMAGE} stands in the question, and the row has no picture")
    return [PlainChain(steps, labels, "", None).row(f"{name}/0", question, gold=gold, image=image)]


def _scored(row: Mapping[str, Any], good_above: float) -> tuple[str, list[str], list[TagLabel], str]:
    steps: list[str] = []
    labels: list[TagLabel] = []
    for number, one in enumerate(list_at(row, "steps_with_score")):
        place = f"steps_with_score.{number}."
        found = mapping_at({"one": one}, "one", place)
        score: object = found.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise ValueError(f"{place}score: a share between 0 and 1 is needed, not {score!r}")
        steps.append(text_at(found, "step", place))
        labels.append(TagLabel(float(score), score > good_above))
    if not steps:
        raise ValueError("steps_with_score: there is no step")
    asked = text_at(row, "question_orig" if "question_orig" in row else "question")
    return asked, steps, labels, text_at(row, "answer", may_be_empty=True) if "answer" in row else ""


def _conversation(row: Mapping[str, Any]) -> tuple[str, list[str], list[TagLabel], str]:
    turns = [
        (text_at(found, "from", place), text_at(found, "value", place))
        for number, turn in enumerate(list_at(row, "conversations"))
        for place in [f"conversations.{number}."]
        for found in [mapping_at({"turn": turn}, "turn", place)]
    ]
    spoken = turns[1:] if turns and turns[0][0] == "system" else turns
    who = [speaker for speaker, _ in spoken]
    if not spoken or who != ["human", "gpt"] * (len(spoken) // 2):
        raise ValueError("conversations: turns by 'human' and 'gpt' have to take turns, one pair a step")
    begun = FIRST.fullmatch(spoken[0][1])
    if begun is None:
        raise ValueError(
            "conversations: the first turn needs '### Question:' and '### Solution Process:', each on a line"
        )
    steps = [begun["step"].strip(), *(text for _, text in spoken[2::2])]
    replies = [text for _, text in spoken[1::2]]
    if strange := [reply for reply in replies if reply not in REPLIES]:
        raise ValueError(f"conversations: the reply {strange[0][:40]!r}; replies are '+' and '-'")
    if not steps[0]:
        raise ValueError("conversations: the first step is empty")
    return begun["question"], steps, [REPLIES[reply] for reply in replies], ""


def _question(asked: str) -> str:
    text = asked.strip()
    text = (text.removeprefix(IMAGE) if text.startswith(IMAGE) else text.removesuffix(IMAGE)).strip()
    if IMAGE in text:
        raise ValueError(f"{IMAGE} stands more than once or within the question; one picture is shown, before the text")
    if not text:
        raise ValueError("the question is empty")
    return text


def _picture(image: object) -> str | None:
    several: list[Any] = image if isinstance(image, list) else [image]
    if len(several) > 1:
        raise ValueError(f"image: {len(several)} pictures; a chain has one")
    if not several or several[0] is None:
        return None
    if not isinstance(several[0], str) or not several[0].strip():
        raise ValueError(f"image: the path of a picture is needed, not {kind_of(several[0])}")
    return several[0]
