"""Reads conversations in InternVL's JSONL format, as ShareGPT-Step-300K and the release's PRM data are published.

    {"id": ..., "image": "geo/1.png", "conversations": [{"from": "human", "value": "<image>\\nQuestion"},
                                                        {"from": "gpt", "value": "<|reasoning_start|>..."}]}

The format is read off the released serialiser, trainers and InternVL's loader (baaivision/CoS); the published files
themselves were not looked at. It is a part of the trainer that knows CoS.

Read:

- One question and one reply about one picture, or about none. ``image`` is a path, or a list of one path; where there
  is no picture the key is left out, null or an empty list. ``<image>`` may stand at the beginning or the end of the
  question, or be left out: the picture is always shown first.
- The reply is the whole chain in the step grammar (`cos.search.grammars.cos`). White space around control tokens is
  dropped, as slow tokenizers put some there; ``Answer:`` before the answer may be missing, as it is in the paper's
  figure 7.
- Step tags behind every step and the answer mean nothing by themselves. PRM labels in their places, or two copies of
  the chain with ``<|split_token|>`` between them, tags in the first and labels in the second (the release's PRM form),
  are labels of the source ``published``. Where the answer's label is bad, the gold answer is not known: it is empty.
- Other keys of the object and its turns are not looked at.

Refused, by name of the fault: several pictures, ``<image>`` without one, several turns, a system turn (prompts have the
checkpoint's own system text), and every reply that is not exactly one chain: tokens that are missing, nested or out of
order, text that is outside of a field, a second answer, tags at some places only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from cos.search.grammars.cos import (
    ANSWER_END,
    ANSWER_START,
    LABEL_BAD,
    LABEL_GOOD,
    NAME_END,
    NAME_START,
    POLICY_TOKENS,
    REASONING_END,
    REASONING_PROCEED,
    REASONING_START,
    REFLECTION_END,
    REFLECTION_START,
    STEP_END,
    STEP_START,
    STEP_TAG,
    THOUGHT_END,
    THOUGHT_START,
    Step,
)
from cos.training.data.rows import ChainRow, ProblemRow, TagLabel, kind_of

IMAGE = "<image>"
SPLIT = "<|split_token|>"
"""Between the two copies of a chain in the release's PRM data."""
MOST_SHOWN = 40
"""Longest piece of a row in a message, characters."""

_CONTROL = re.compile(f"({'|'.join(map(re.escape, POLICY_TOKENS))})")
_LABELS = {LABEL_GOOD: TagLabel(1.0, True), LABEL_BAD: TagLabel(0.0, False)}


def chain_of(row: Mapping[str, Any]) -> ChainRow:
    """One conversation as a chain. Errors: ValueError saying what is wrong with it."""
    name, image = _id(row.get("id")), _picture(row.get("image"))
    asked, reply = _turns(row["conversations"])
    question = _question(asked, has_picture=image is not None)
    read = read_reply(reply)
    right = read.labels[-1].hard if read.labels else None
    return ChainRow(
        id=f"{name}/0",
        problem=ProblemRow(id=name, image=image, question=question, answer="" if right is False else read.answer),
        steps=read.steps,
        answer=read.answer,
        right=right,
        labels={"published": read.labels} if read.labels else {},
    )


def _id(name: object) -> str:
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise ValueError(f"id: text or a whole number is needed, not {kind_of(name)}")
    return str(name)


def _picture(image: object) -> str | None:
    if image is None or image == []:
        return None
    if isinstance(image, list):
        several = cast("list[object]", image)
        if len(several) > 1:
            raise ValueError(f"image: {len(several)} pictures; a chain has one, so give a path or a list of one")
        image = several[0]
    if not isinstance(image, str) or not image.strip():
        raise ValueError(f"image: the path of a picture is needed, not {kind_of(image)}")
    return image


def _turns(conversations: object) -> tuple[str, str]:
    """Question and reply."""
    if not isinstance(conversations, list):
        raise ValueError(f"conversations: a list of turns is needed, not {kind_of(conversations)}")
    spoken = [_turn(number, turn) for number, turn in enumerate(cast("list[object]", conversations), start=1)]
    who = [speaker for speaker, _ in spoken]
    if "system" in who:
        raise ValueError(
            "conversations: a system turn; prompts have the checkpoint's own system text, so leave the turn out"
        )
    if strange := [speaker for speaker in who if speaker not in ("human", "gpt")]:
        raise ValueError(f"conversations: a turn from {strange[0][:MOST_SHOWN]!r}; name them 'human' and 'gpt'")
    if len(who) > 2:
        raise ValueError(f"conversations: {len(who)} turns; a chain is one question and one reply, so split them up")
    if who != ["human", "gpt"]:
        raise ValueError(f"conversations: one question from 'human' and one reply from 'gpt' are needed, not {who}")
    return spoken[0][1], spoken[1][1]


def _turn(number: int, turn: object) -> tuple[str, str]:
    """Who speaks, and what."""
    if not isinstance(turn, dict):
        raise ValueError(f"conversations: turn {number} is {kind_of(turn)}, not an object with from and value")
    found = cast("dict[str, object]", turn)
    for key in ("from", "value"):
        if key not in found:
            raise ValueError(f"conversations: turn {number} has no {key}")
        if not isinstance(found[key], str):
            raise ValueError(f"conversations: {key} of turn {number} is {kind_of(found[key])}, not text")
    return cast(str, found["from"]), cast(str, found["value"])


def _question(asked: str, *, has_picture: bool) -> str:
    if IMAGE in asked and not has_picture:
        raise ValueError(f"{IMAGE} stands in the question, and the row has no picture: give its path as image")
    text = asked.strip()
    text = text.removeprefix(IMAGE) if text.startswith(IMAGE) else text.removesuffix(IMAGE)
    if IMAGE in text:
        raise ValueError(f"{IMAGE} stands more than once or within the question; one picture is shown, before the text")
    if not text.strip():
        raise ValueError("the question is empty")
    return text.strip()


@dataclass(frozen=True, slots=True)
class Reply:
    """What a reply holds."""

    steps: tuple[Step, ...]
    answer: str
    labels: tuple[TagLabel, ...]
    """One for each step and the answer; none where the reply has none."""


def read_reply(text: str) -> Reply:
    """Steps, answer and labels of a reply. Errors: ValueError naming the fault and where it is."""
    copies = text.split(SPLIT)
    if len(copies) > 2:
        raise ValueError(f"{SPLIT} stands {len(copies) - 1} times; it parts two copies of one chain")
    if len(copies) == 1:
        chain = _Reader(text).chain()
        return Reply(chain.steps, chain.answer, _labels(chain.marks))
    tagged, labelled = (_Reader(copy, f"copy {number}, ").chain() for number, copy in enumerate(copies, start=1))
    if set(tagged.marks) != {STEP_TAG}:
        raise ValueError(f"copy 1: {STEP_TAG!r} has to stand behind every step and the answer")
    if (tagged.steps, tagged.answer) != (labelled.steps, labelled.answer):
        raise ValueError(f"the two copies around {SPLIT} are not of the same chain")
    labels = _labels(labelled.marks)
    if not labels:
        raise ValueError(f"copy 2: {LABEL_GOOD!r} or {LABEL_BAD!r} has to stand behind every step and the answer")
    return Reply(labelled.steps, labelled.answer, labels)


def _labels(marks: Sequence[str]) -> tuple[TagLabel, ...]:
    """The labels among a chain's marks, one behind each step and the answer. Errors: ValueError for a mixture."""
    kinds = {"a label" if mark in _LABELS else repr(mark) if mark else "nothing" for mark in marks}
    if len(kinds) > 1:
        raise ValueError(f"behind some steps or the answer stands {', behind others '.join(sorted(kinds))}")
    return tuple(_LABELS[mark] for mark in marks if mark in _LABELS)


@dataclass(frozen=True, slots=True)
class _Chain:
    steps: tuple[Step, ...]
    answer: str
    marks: tuple[str, ...]
    """What stands behind each step and the answer: a tag, a label or nothing."""


class _Reader:
    """Goes through a reply token by token; nothing but white space may stand where the grammar has no text."""

    def __init__(self, text: str, place: str = "") -> None:
        """``place`` stands before the place that an error names."""
        pieces = _CONTROL.split(text)
        self._tokens = [*pieces[1::2], None]
        """Control tokens in order; None: the end."""
        self._texts = pieces[::2]
        """What stands before each."""
        self._next = 0
        self._place = place

    def chain(self) -> _Chain:
        """The whole text. Errors: ValueError."""
        steps: list[Step] = []
        marks: list[str] = []
        self._pass(REASONING_START, "the beginning")
        while self._ahead != REASONING_END:
            where = f"step {len(steps) + 1}"
            if steps:
                if self._ahead != REASONING_PROCEED:
                    raise self._fault(f"after step {len(steps)}", f"{REASONING_PROCEED} or {REASONING_END} is missing")
                self._pass(REASONING_PROCEED, where)
            steps.append(self._step(where))
            marks.append(self._mark())
        self._pass(REASONING_END, "the end of the steps")
        if self._texts[self._next].strip() == "Answer:":
            self._texts[self._next] = ""
        answer = self._field(ANSWER_START, ANSWER_END, "the answer")
        if not answer:
            raise ValueError(f"{self._place}the answer: there is none between its tokens")
        marks.append(self._mark())
        self._pass(None, "after the answer")
        return _Chain(tuple(steps), answer, tuple(marks))

    @property
    def _ahead(self) -> str | None:
        return self._tokens[self._next]

    def _step(self, where: str) -> Step:
        self._pass(STEP_START, where)
        name = self._field(NAME_START, NAME_END, where)
        thought = self._field(THOUGHT_START, THOUGHT_END, where)
        reflection = self._field(REFLECTION_START, REFLECTION_END, where)
        self._pass(STEP_END, where)
        return Step(name, thought, reflection)

    def _field(self, start: str, end: str, where: str) -> str:
        self._pass(start, where)
        text = self._texts[self._next].strip()
        self._texts[self._next] = ""
        self._pass(end, where)
        return text

    def _mark(self) -> str:
        """The tag or label that stands here, if any; what else stands here is left to `_pass`."""
        found = self._texts[self._next].strip()
        if found != STEP_TAG and found not in _LABELS:
            return ""
        self._texts[self._next] = ""
        return found

    def _pass(self, token: str | None, where: str) -> None:
        """Goes past a token, None: the end. Errors: ValueError when another one comes next, or text."""
        if self._ahead != token:
            raise self._fault(where, "nothing more should come" if token is None else f"{token} is missing")
        text = self._texts[self._next].strip()
        if text:
            before = "at the end" if token is None else f"before {token}"
            raise ValueError(f"{self._place}{where}: text that is in no field {before}: {text[:MOST_SHOWN]!r}")
        self._next += 1

    def _fault(self, where: str, wanted: str) -> ValueError:
        there = "the text ends" if self._ahead is None else f"{self._ahead} comes"
        return ValueError(f"{self._place}{where}: {wanted}, {there} instead")
