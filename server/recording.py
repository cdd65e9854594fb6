"""What is heard of a search while it runs, and the spans it becomes once its request is over.

    POST /solve
    +-- queue, decode, open, ask, compare
    +-- level 1
    |   +-- candidate 0
    |   |   +-- draw
    |   |   +-- read
    |   +-- candidate 1
    +-- level 2 ...

A span lasts from the beginning of the first thing in it to the end of the last. Levels overlap: what is likely is begun
ahead. No span holds what was asked or answered. Attributes of the GenAI conventions keep their names; ours begin with
``cos.``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from msgspec.structs import replace

from cos.search.events import Answered, Event, Proposed, Scored
from cos.search.result import Result
from cos.search.stopwatch import Interval
from cos.search.types import Candidate, Path, Prefix
from cos.wire.job import Job

Value = str | bool | int | float | Sequence[str] | Sequence[int]
Attributes = Mapping[str, Value]
CandidateOutcome = Literal["kept", "duplicate", "pruned", "failed", "aborted"]
"""What became of a candidate: kept in the answer's chain, the same text as another, written and not kept, never written
because its engine failed, or begun and not wanted any more."""

ENGINES = {"draw": "policy", "read": "prm"}


@dataclass(frozen=True, slots=True)
class Span:
    """One piece of work and its parts. Times: `time.perf_counter` seconds."""

    name: str
    began: float
    ended: float
    attributes: Attributes
    failed: bool = False
    parts: tuple["Span", ...] = ()

    def __len__(self) -> int:
        """Itself and all its parts."""
        return 1 + sum(map(len, self.parts))


@dataclass(slots=True)
class Recording:
    """What is heard of one search."""

    trace_id: str
    """As W3C spells it."""
    job: Job | None = None
    heard: list[Interval] = field(default_factory=list[Interval])
    proposed: dict[Path, Candidate] = field(default_factory=dict[Path, Candidate])
    result: Result | None = None

    def hear(self, interval: Interval) -> None:
        """Notes a finished piece of work."""
        self.heard.append(interval)

    def see(self, event: Event) -> None:
        """Notes what an event tells of candidates."""
        match event:
            case Proposed(candidate):
                self.proposed[candidate.path] = candidate
            case Scored(path, score):
                self.proposed[path] = replace(self.proposed[path], score=score)
            case Answered(result):
                self.result, self.proposed = result, {candidate.path: candidate for candidate in result.tree}
            case _:
                pass

    def attributes(self) -> dict[str, Value]:
        """What its request's span tells of the search."""
        if self.job is None:
            return {}
        sampling = self.job.spec.sampling
        found: dict[str, Value] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "cos-serve",
            "gen_ai.request.model": self.job.model,
            "gen_ai.request.seed": sampling.seed,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "cos.strategy": self.job.spec.strategy.name,
            "cos.score_kind": self.job.spec.score,
        }
        if (result := self.result) is None:
            return found
        usage = result.usage
        found |= {
            "gen_ai.response.id": self.job.id,
            "gen_ai.response.model": self.job.model,
            "gen_ai.response.finish_reasons": ["stop" if result.is_complete else "length"],
            "gen_ai.usage.input_tokens": usage.policy_prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.policy_cached_tokens,
            "gen_ai.usage.output_tokens": usage.tokens_generated,
            "cos.finish_reason": result.finish_reason,
            "cos.depth": len(result.chain.candidates),
            "cos.candidates": usage.candidates,
            "cos.candidates_aborted": usage.candidates_aborted,
            "cos.candidates_begun_ahead": usage.candidates_begun_ahead,
            "cos.tokens_kept": usage.tokens_kept,
            "cos.prm_reads": usage.prm_reads,
            "cos.unscored": usage.unscored,
        }
        if result.value is not None:
            found["cos.chain_score"] = result.value
        return found

    def spans(self, *, failed: bool) -> list[Span]:
        """The parts of its request. ``failed``: whether the request failed, so that what it failed at did, too."""
        model = self.job.model if self.job else ""
        spans = [_work(piece, model, failed=failed) for piece in self.heard if piece.path is None]
        placed = sorted(
            (piece for piece in self.heard if piece.path is not None),
            key=lambda piece: (_depth(piece), _place(piece), piece.began),
        )
        outcomes = self.outcomes()
        for depth, level in groupby(placed, key=_depth):
            candidates = [
                self._candidate(path, [*pieces], outcomes.get(path), model)
                for path, pieces in groupby(level, key=_place)
            ]
            spans.append(_around(f"level {depth}", candidates, {"cos.depth": depth}))
        return sorted(spans, key=lambda span: span.began)

    def outcomes(self) -> dict[Path, CandidateOutcome]:
        """What became of each written candidate. Nothing is known of that where the search did not come to its end."""
        if self.result is None:
            return {}
        numbers: dict[Path, int] = {(): 0}
        known: dict[tuple[int, Prefix], int] = {}
        for path in sorted(self.proposed):
            words = numbers[path[:-1]], self.proposed[path].written
            numbers[path] = known.setdefault(words, len(known) + 1)
        kept = {candidate.path for candidate in self.result.chain.candidates}
        seen = {numbers[path] for path in kept}
        outcomes: dict[Path, CandidateOutcome] = dict.fromkeys(kept, "kept")
        for path in sorted(self.proposed):
            if path not in kept:
                outcomes[path] = "duplicate" if numbers[path] in seen else "pruned"
                seen.add(numbers[path])
        return outcomes

    def _candidate(self, path: Path, pieces: Sequence[Interval], outcome: CandidateOutcome | None, model: str) -> Span:
        """``pieces``: what was done for it, in the order in which it was begun."""
        candidate = self.proposed.get(path)
        attributes: dict[str, Value] = {"cos.path": list(path), "cos.depth": len(path)}
        draws = [piece for piece in pieces if piece.kind == "draw"]
        attributes["cos.begun_ahead"] = bool(draws) and draws[-1].ahead
        if candidate is None:
            outcome = "failed" if draws and draws[-1].outcome == "failed" else "aborted"
        else:
            attributes |= {"cos.end": candidate.end, "cos.tokens": candidate.tokens}
            if candidate.score is not None:
                attributes["cos.score"] = candidate.score
        if outcome is not None:
            attributes["cos.outcome"] = outcome
        name = f"candidate {'.'.join(map(str, path))}"
        works = [_work(piece, model, failed=True) for piece in pieces]
        return _around(name, works, attributes, failed=outcome == "failed")


def _place(piece: Interval) -> Path:
    return piece.path or ()


def _depth(piece: Interval) -> int:
    return len(_place(piece))


def _work(piece: Interval, model: str, *, failed: bool) -> Span:
    attributes: dict[str, Value] = {"cos.outcome": piece.outcome}
    if (engine := ENGINES.get(piece.kind)) is not None:
        attributes["cos.engine"] = engine
    if piece.kind == "draw":
        attributes |= {"gen_ai.operation.name": "text_completion", "gen_ai.request.model": model}
        attributes["cos.begun_ahead"] = piece.ahead
    # What the policy is asked about its own candidates is no candidate.
    name = "ask" if piece.kind == "draw" and piece.path is None else piece.kind
    # A request that is refused for its value fails in one of these, and nothing is wrong.
    is_harmless = piece.kind in ("queue", "decode", "open") and not failed
    return Span(name, piece.began, piece.ended, attributes, failed=piece.outcome == "failed" and not is_harmless)


def _around(name: str, parts: Iterable[Span], attributes: Attributes, *, failed: bool = False) -> Span:
    inner = tuple(parts)
    began, ended = min(part.began for part in inner), max(part.ended for part in inner)
    return Span(name, began, ended, attributes, failed, inner)
