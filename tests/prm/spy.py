"""A PRM's runtime that notes what it is asked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.search.grammars.cos import COS_TOKENS
from cos.search.ports import Ability, Draw, Drawn, HeadRead, LabelRead
from cos.search.prompt import Prompt, TurnMarks
from cos.search.types import Prefix


@dataclass
class Spy:
    """A reader, and its own session. It answers with the log-probabilities it was given."""

    vocabulary: ScriptedVocabulary = field(default_factory=lambda: ScriptedVocabulary(COS_TOKENS))
    logprobs: tuple[float, ...] = (-0.1, -2.0)
    abilities: frozenset[Ability] = frozenset({"labels"})
    model: str = "spy"
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    files: frozenset[str] = frozenset()
    prompts: list[Prompt] = field(default_factory=list[Prompt])
    prefixes: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    labels: set[tuple[int, ...]] = field(default_factory=set[tuple[int, ...]])

    def turn_marks(self) -> TurnMarks:
        return TurnMarks(self.vocabulary.encode("</u><a>"), self.vocabulary.encode("</a><u>"))

    def reply_marks(self) -> TurnMarks:
        return self.turn_marks()

    @property
    def tokens_aborted(self) -> int:
        return 0

    async def open(self, prompt: Prompt) -> "Spy":
        self.prompts.append(prompt)
        return self

    async def read_labels(self, prefix: Prefix, labels: tuple[int, ...], priority: int) -> LabelRead:
        assert isinstance(prefix, tuple)
        assert priority < 0, "a search waits for reads"
        self.prefixes.append(prefix)
        self.labels.add(labels)
        return LabelRead(self.logprobs, 10 + len(prefix), 7)

    async def read_head(self, prefix: Prefix, priority: int) -> HeadRead:
        del prefix, priority
        return HeadRead((math.nan,), 10, 7)

    async def draw(self, prefix: Prefix, draw: Draw) -> Drawn:
        raise NotImplementedError
