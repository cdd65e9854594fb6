"""Reads PRM800K's lines (https://github.com/openai/prm800k, phase 1 and phase 2; arXiv 2305.20050).

    {"question": {"problem": ..., "ground_truth_answer": ..., ...}, "label": {"steps": [{"completions": [{"text": ...,
     "rating": -1 | 0 | 1 | null, ...}, ...], "human_completion": null | {"text": ..., "rating": ...},
     "chosen_completion": 0 | null}, ...], "finish_reason": "solution", ...}, ...}

The layout is that of the repository's README.

Read:

- A line is a tree: at every step one completion was chosen (or a human wrote one) and the others lead nowhere. The path
  through the chosen ones is a chain, and so is every other rated completion behind the steps chosen before it. A step
  that stands in several chains is labelled in the first of them alone, so that no rating counts twice.
- A rating of 1 or 0 is a good label, one of -1 a bad one (in the paper neutral steps count as right). What a human
  wrote is good where it has no rating: labelers were to write a correct step. Unrated completions teach nothing.
- ``# Answer`` at the end of a step begins the answer, whose tag has the step's rating. A chain without it has an empty
  answer and no label there.
- Questions have no picture. Other keys are not looked at; ``bad_problem``, quality control and screening are read, too.

Refused: a line without a rated step, a rating that is none of these, a ``chosen_completion`` that there is not, a step
with nothing chosen that others follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cos.training.data.plain_chains import PlainChain, list_at, mapping_at, text_at
from cos.training.data.rows import ChainRow, TagLabel

ANSWER = "# Answer"
LABELS: Mapping[object, TagLabel | None] = {
    1: TagLabel(1.0, True),
    0: TagLabel(1.0, True),
    -1: TagLabel(0.0, False),
    None: None,
}


@dataclass(frozen=True, slots=True)
class _Completion:
    text: str
    label: TagLabel | None


def chains_of(row: Mapping[str, Any], name: str) -> list[ChainRow]:
    """The chains of a line. ``name`` is put into their ids. Errors: ValueError saying what is wrong with it."""
    question = mapping_at(row, "question")
    steps = list_at(mapping_at(row, "label"), "steps", "label.")
    asked = text_at(question, "problem", "question.")
    gold = text_at(question, "ground_truth_answer", "question.", may_be_empty=True)
    paths = [path for path in _paths(steps) if any(one.label is not None for one in path)]
    if not paths:
        raise ValueError("label.steps: no step is rated, so that the line teaches nothing")
    return [_chain(path).row(f"{name}/{number}", asked, gold=gold) for number, path in enumerate(paths)]


def _paths(steps: Sequence[object]) -> Iterator[list[_Completion]]:
    """Every path through the tree, its labels taken out where an earlier path has them."""
    chosen: list[_Completion] = []
    labelled = 0
    for number, step in enumerate(steps):
        place = f"label.steps.{number}."
        found = mapping_at({"step": step}, "step", place)
        offered = list_at(found, "completions", place)
        completions = [_completion(one, f"{place}completions.{index}.") for index, one in enumerate(offered)]
        taken = _chosen(found, completions, place)
        for one in completions:
            if one is not taken and one.label is not None:
                yield [*_without_labels(chosen[:labelled]), *chosen[labelled:], one]
                labelled = len(chosen)
        if taken is None:
            if number + 1 < len(steps):
                raise ValueError(f"{place}chosen_completion: nothing is chosen, and a step follows")
            return
        chosen.append(taken)
    if chosen:
        yield [*_without_labels(chosen[:labelled]), *chosen[labelled:]]


def _without_labels(path: Sequence[_Completion]) -> list[_Completion]:
    return [_Completion(one.text, None) for one in path]


def _completion(one: object, place: str) -> _Completion:
    found = mapping_at({"one": one}, "one", place)
    rating = found.get("rating")
    if rating not in LABELS or isinstance(rating, bool | float):
        raise ValueError(f"{place}rating: {rating!r}; ratings are -1, 0 and 1, or null for none")
    return _Completion(text_at(found, "text", place), LABELS[rating])


def _chosen(step: Mapping[str, Any], completions: Sequence[_Completion], place: str) -> _Completion | None:
    index: object = step.get("chosen_completion")
    if index is None:
        human: object = step.get("human_completion")
        if human is None:
            return None
        by_human = (
            _Completion(human, None) if isinstance(human, str) else _completion(human, f"{place}human_completion.")
        )
        return _Completion(by_human.text, by_human.label or LABELS[1])
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(completions):
        raise ValueError(f"{place}chosen_completion: {index!r} is none of the {len(completions)} completions")
    return completions[index]


def _chain(path: Sequence[_Completion]) -> PlainChain:
    *_, last = path
    text, found, answer = last.text.partition(ANSWER)
    if not (found and answer.strip()):
        return PlainChain([one.text for one in path], [one.label for one in path], "", None)
    steps = [*path[:-1], *([_Completion(text.strip(), last.label)] if text.strip() else [])]
    return PlainChain([one.text for one in steps], [one.label for one in steps], answer.strip(), last.label)
