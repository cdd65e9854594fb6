"""A stored search made again: the policy writes what it wrote, the PRM says what it said, the strategy decides anew.

For debugging a strategy on a search that went wrong somewhere else, and for asking what another one would have made of
the same candidates, as far as it asks for no others. Candidates are found by their seeds, which follow from their
places.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cos.engines.scripted import Script, chance
from cos.search.budget import Limits
from cos.search.errors import EngineError
from cos.search.grammar import STEP_TAG, answer_pieces, step_pieces
from cos.search.requests import seed_of
from cos.search.spec import Sampling, SearchSpec
from cos.search.strategies import resolve
from cos.search.types import Path, Question, Step

Node = Mapping[str, Any]
"""A candidate as a stored trace has it (docs/traces.md)."""


@dataclass(frozen=True, slots=True)
class Written:
    """What stands in the tree, for a scripted policy and PRM."""

    texts: Mapping[float, str]
    """By the first number that a draw's chance gives."""
    scores: Mapping[str, float]
    """P(good) by all that is written up to a candidate's end."""

    def writer(self, question: Question, written: str, rng: random.Random) -> str:
        """Errors: EngineError for a candidate that the stored search has not drawn."""
        del question, written
        text = self.texts.get(rng.random())
        if text is None:
            raise EngineError("the stored search has no such candidate")
        return text

    def judge(self, question: Question, written: str) -> float:
        """NaN for what the stored search has not scored."""
        del question
        return self.scores.get(written.replace(STEP_TAG, ""), float("nan"))


def question_of(trace: Mapping[str, Any]) -> Question:
    """What a stored search was asked, its choices included; without its picture, which no script looks at."""
    return Question(trace["question"], choices=tuple(trace["parameters"].get("choices", ())))


def spec_of(trace: Mapping[str, Any]) -> SearchSpec:
    """All that was in force in a stored search. Its limit in seconds is left out: time does not come back.

    Errors: InputError for a strategy or a parameter that there is no more.
    """
    parameters: Mapping[str, Any] = trace["parameters"]
    strategy = resolve(trace["strategy"])
    own = {name: value for name, value in parameters.items() if name in strategy.params.model_fields}
    sampling = {name: value for name, value in parameters.items() if name in Sampling.model_fields}
    limits = {name: parameters["budget"][name] for name in ("tokens", "prm_reads")}
    return SearchSpec(
        strategy.name,
        own,
        sampling=Sampling.model_validate(sampling),
        limits=Limits(**limits),
        **{name: parameters[name] for name in ("score", "aggregation", "step_weight")},
    )


def replay(tree: Sequence[Node], seed: int) -> Script:
    """A script for both engines of a search with this root ``seed`` (a trace's ``parameters.seed``)."""
    texts: dict[float, str] = {}
    whole: dict[Path, str] = {(): ""}
    scores: dict[str, float] = {}
    for node in sorted(tree, key=lambda node: tuple(node["path"])):
        path: Path = tuple(node["path"])
        before, text = whole[path[:-1]], segment_of(node, first=len(path) == 1)
        texts[chance(seed_of(seed, path), before, temperature=1.0).random()] = text
        # Drawn at temperature 0 it is the first child of its parent, or says what that says.
        texts.setdefault(chance(0, before, temperature=0.0).random(), text)
        whole[path] = before + text
        if node["score"] is not None:
            scores[whole[path]] = node["score"]
    found = Written(texts, scores)
    return Script(writer=found.writer, judge=found.judge)


def segment_of(node: Node, *, first: bool) -> str:
    """A candidate's text, its markup written anew; of one that the grammar could not read, what was kept of it."""
    if node["answer"] is not None:
        return "".join(answer_pieces(node["answer"], first=first))
    if node["name"] is not None:
        return "".join(step_pieces(Step(node["name"], node["thought"], node["reflection"]), first=first))
    return node["excerpt"] or ""
