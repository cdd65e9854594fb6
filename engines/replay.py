"""A stored search made again: the policy writes what it wrote, the PRM says what it said, the strategy decides anew.

For debugging a strategy on a search that went wrong somewhere else, and for asking what another one would have made of
the same candidates, as far as it asks for no others. Candidates are found by their seeds, which follow from their
places.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cos.engines.scripted import Script, ScriptedEngine, chance
from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.search import grammars
from cos.search.budget import Limits
from cos.search.errors import EngineError
from cos.search.grammar import Grammar, written
from cos.search.models import Models
from cos.search.place import seed_of
from cos.search.ports import Reading, ScorerSession
from cos.search.prompt import Prompt
from cos.search.scale import Scale
from cos.search.spec import SearchSpec
from cos.search.strategies import resolve
from cos.search.terms import Sampling
from cos.search.types import Chain, Path, Piece, Question, Turn

Node = Mapping[str, Any]
"""A candidate as a stored trace has it (docs/traces.md)."""


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """Writes what stands in a tree."""

    texts: Mapping[float, str]
    """By the first number that a draw's chance gives."""

    def write(self, prompt: Prompt, before: str, rng: random.Random) -> str:
        """Errors: EngineError for a candidate that the stored search has not drawn."""
        del prompt, before
        text = self.texts.get(rng.random())
        if text is None:
            raise EngineError("the stored search has no such candidate")
        return text


@dataclass(frozen=True, slots=True)
class StoredScorer:
    """Says what a PRM said of the candidates of a tree. Satisfies `cos.search.ports.Scorer` and `ScorerSession`."""

    scores: Mapping[Path, float | None]
    scale: Scale

    async def open(self, question: Question) -> ScorerSession:
        """Every question is the stored one."""
        del question
        return self

    async def score(self, chain: Chain) -> Reading:
        """None for what the stored search has not scored."""
        return Reading(self.scores.get(chain.path), prompt_tokens=0, cached_tokens=0)


def question_of(trace: Mapping[str, Any]) -> Question:
    """What a stored search was asked, its choices and the conversation before it included; without pictures, which no
    script looks at."""
    turns = [(turn["role"], [part["text"] or "" for part in turn["content"]]) for turn in trace["history"]]
    return Question(
        trace["question"],
        choices=tuple(trace["parameters"].get("choices", ())),
        history=tuple(Turn(role, "".join(texts)) for role, texts in turns),
    )


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


def replay(trace: Mapping[str, Any]) -> Models:
    """The models of a stored search: its tree's candidates, in the grammar and on the scale that it was stored with.

    Errors: InputError for a grammar that there is no more, or that a policy without a model cannot write.
    """
    vocabulary = ScriptedVocabulary()
    grammar = grammars.choose(trace["grammar"], vocabulary)
    seed, tree = trace["parameters"]["seed"], trace["tree"]
    texts: dict[float, str] = {}
    whole: dict[Path, str] = {(): ""}
    for node in sorted(tree, key=lambda node: tuple(node["path"])):
        path: Path = tuple(node["path"])
        before, text = whole[path[:-1]], text_of(node, grammar, first=len(path) == 1)
        texts[chance(seed_of(seed, path), before, temperature=1.0).random()] = text
        # Drawn at temperature 0 it is the first child of its parent, or says what that says.
        texts.setdefault(chance(0, before, temperature=0.0).random(), text)
        whole[path] = before + text
    policy = ScriptedEngine(Script(grammar=grammar, writer=StoredPolicy(texts).write), vocabulary=vocabulary)
    scores: dict[Path, float | None] = {tuple(node["path"]): node["score"] for node in tree}
    scorer = None if trace["scale"] is None else StoredScorer(scores, scale_of(trace))
    return Models(policy=policy, grammar=grammar, scorer=scorer)


def scale_of(trace: Mapping[str, Any]) -> Scale:
    """What the stored scores mean, with the aggregation and the weight that were in force."""
    parameters, scale = trace["parameters"], trace["scale"]
    return Scale(
        aggregation=parameters["aggregation"],
        step_weight=parameters["step_weight"],
        threshold=scale["threshold"],
        lowest=-math.inf if scale["lowest"] is None else scale["lowest"],
        highest=math.inf if scale["highest"] is None else scale["highest"],
        judges=scale.get("judges", "steps"),
        is_probability=scale["is_probability"],
    )


def text_of(node: Node, grammar: Grammar, *, first: bool) -> str:
    """A candidate as its policy wrote it: its markup written anew, or what the grammar could not read as it is."""
    if node["end"] in ("truncated", "broken"):
        return node["text"]
    if node["answer"] is not None:
        return written(grammar.spans(Piece("answer", node["answer"], node["fields"]), first=first))
    return written(grammar.spans(Piece("step", node["text"], node["fields"]), first=first))
