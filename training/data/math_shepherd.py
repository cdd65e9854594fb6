"""Reads Math-Shepherd's lines (peiyi9979/Math-Shepherd; arXiv 2312.08935).

    {"input": "Question? Step 1: ... ки\\nStep 2: ... The answer is: 18 ки", "label": "Question? Step 1: ... +\\nStep 2:
     ... The answer is: 18 -", "task": "GSM8K"}

The layout is that which TRL's own reader has (huggingface/trl, examples/datasets/math_shepherd.py).

Read: ``label`` is ``input`` with ``+`` (good) or ``-`` (bad) for each ``ки``. The question ends where ``Step 1:``
begins. ``Step n:`` is left out of the steps' text. What follows ``The answer is:`` in the last step is the answer,
whose tag has the step's label; a good one is taken for gold, and of a bad one gold is not known. Questions have no
picture.

Refused: texts that differ in more than these signs, no ``Step 1:``, a label before the first step (the published file
has some), text behind the last label.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cos.training.data.plain_chains import PlainChain, text_at
from cos.training.data.rows import ChainRow, TagLabel

TAG = "ки"
LABELS = {"+": TagLabel(1.0, True), "-": TagLabel(0.0, False)}
FIRST = re.compile(r"\bstep 1:", re.IGNORECASE)
NUMBER = re.compile(r"^step \d+:\s*", re.IGNORECASE)
ANSWER = re.compile(r"\s*\bThe answer is:?\s*(?P<answer>.+)$", re.DOTALL)


def chains_of(row: Mapping[str, Any], name: str) -> list[ChainRow]:
    """The chain of a line. ``name`` is put into its id. Errors: ValueError saying what is wrong with the line."""
    texts, labels = _labelled(text_at(row, "input"), text_at(row, "label"))
    begun = FIRST.search(texts[0])
    if begun is None:
        where = "before the first label" if any(FIRST.search(text) for text in texts) else "in it"
        raise ValueError(f"input: there is no 'Step 1:' {where}, so that nothing tells question and steps apart")
    question = texts[0][: begun.start()].strip()
    if not question:
        raise ValueError("input: the question is empty")
    steps = [NUMBER.sub("", text.strip()) for text in [texts[0][begun.start() :], *texts[1:]]]
    found = ANSWER.search(steps[-1])
    answer = "" if found is None else found["answer"].strip()
    last = labels[-1]
    if found is not None:
        steps[-1] = steps[-1][: found.start()].strip()
        if not steps[-1]:
            steps, labels = steps[:-1], labels[:-1]
    if not all(steps):
        raise ValueError(f"input: step {steps.index('') + 1} is empty")
    chain = PlainChain(steps, labels, answer, last if answer else None)
    return [chain.row(f"{name}/0", question, gold=answer if last.hard else "")]


def _labelled(written: str, labelled: str) -> tuple[list[str], list[TagLabel]]:
    """What stands before each tag, and the tags' labels."""
    *texts, rest = written.split(TAG)
    if TAG not in written:
        raise ValueError(f"input: there is no {TAG!r} in it")
    if rest.strip():
        raise ValueError(f"input: text behind the last {TAG!r}: {rest.strip()[:40]!r}")
    labels: list[TagLabel] = []
    place = 0
    for number, text in enumerate(texts, start=1):
        place += len(text)
        sign = labelled[place : place + 1]
        if labelled[place - len(text) : place] != text or sign not in LABELS:
            raise ValueError(f"label: step {number} is not that of input, with + or - for {TAG!r}")
        labels.append(LABELS[sign])
        place += 1
    return texts, labels
