"""A stored search made again: the policy writes what it wrote, the PRM says what it said, the strategy decides anew.

For debugging a strategy on a search that went wrong somewhere else, and for asking what another one would have made of
the same candidates, as far as it asks for no others. Candidates are found by their seeds, which follow from their
places.
"""

import random
from collections.abc import Mapping, Sequence
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
from cos.search.types import Chain, Path, Piece, Question

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


def replay(tree: Sequence[Node], seed: int, *, grammar: Grammar | None = None, scale: Scale | None = None) -> Models:
    """The models of a search with this root ``seed`` (a trace's ``parameters.seed``).

    ``grammar``: what its policy wrote in; the default one unless given. ``scale``: of its PRM's scores; probabilities
    whose mean is a chain's score unless given. A search that says its own aggregation needs none.
    """
    vocabulary = ScriptedVocabulary()
    chosen = grammar or grammars.choose(grammars.AUTO, vocabulary)
    texts: dict[float, str] = {}
    whole: dict[Path, str] = {(): ""}
    for node in sorted(tree, key=lambda node: tuple(node["path"])):
        path: Path = tuple(node["path"])
        before, text = whole[path[:-1]], text_of(node, chosen, first=len(path) == 1)
        texts[chance(seed_of(seed, path), before, temperature=1.0).random()] = text
        # Drawn at temperature 0 it is the first child of its parent, or says what that says.
        texts.setdefault(chance(0, before, temperature=0.0).random(), text)
        whole[path] = before + text
    scores: dict[Path, float | None] = {tuple(node["path"]): node["score"] for node in tree}
    policy = ScriptedEngine(Script(grammar=chosen, writer=StoredPolicy(texts).write), vocabulary=vocabulary)
    return Models(policy=policy, grammar=chosen, scorer=StoredScorer(scores, scale or Scale(aggregation="mean")))


def text_of(node: Node, grammar: Grammar, *, first: bool) -> str:
    """A candidate as its policy wrote it: its markup written anew, or what the grammar could not read as it is."""
    if node["end"] in ("truncated", "broken"):
        return node["text"]
    if node["answer"] is not None:
        return written(grammar.spans(Piece("answer", node["answer"]), first=first))
    return written(grammar.spans(Piece("step", node["text"], node["fields"]), first=first))
