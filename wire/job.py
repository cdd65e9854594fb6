"""One search that is ready to run, and how its events and its result go over the wire."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from cos.search import events as happened
from cos.search.answers import meant
from cos.search.result import Result
from cos.search.scale import Scale as PrmScale
from cos.search.spec import SearchSpec
from cos.search.trust import answer_warnings
from cos.search.types import Candidate as Proposal
from cos.search.types import Picture, Question
from cos.wire.events import Answered, Event, Opened, Proposed, Scored, Selected
from cos.wire.reply import Candidate, Solution, Timings, Usage
from cos.wire.trace import Scale, StoredTurn, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One search, ready to run."""

    id: str
    model: str
    """What clients call the model."""
    question: Question
    spec: SearchSpec
    scale: PrmScale | None
    """What the PRM's scores mean; None without a PRM."""
    return_tree: bool = False
    """Whether the reply lists every candidate."""
    warnings: tuple[str, ...] = ()
    """Warnings of its reply, besides the search's own."""

    @property
    def parameters(self) -> dict[str, Any]:
        """All that is in force."""
        spec, ruler = self.spec, self.spec.ruler(self.scale)
        # They decide how answers are compared: without them a vote cannot be made again.
        choices = {"choices": list(self.question.choices)} if self.question.choices else {}
        return {
            **choices,
            **spec.params.model_dump(),
            **spec.sampling.model_dump(),
            "score": spec.score,
            "aggregation": ruler.aggregation,
            "step_weight": ruler.step_weight,
            "budget": {
                "tokens": spec.limits.tokens,
                "prm_reads": spec.limits.prm_reads,
                "seconds": spec.limits.seconds,
            },
        }

    def event(self, event: happened.Event) -> Event:
        """An event of this search."""
        match event:
            case happened.Opened(strategy, prompt_tokens):
                return Opened(id=self.id, strategy=strategy, parameters=self.parameters, prompt_tokens=prompt_tokens)
            case happened.Proposed(candidate):
                return Proposed(candidate=candidate_of(candidate))
            case happened.Scored(path, score):
                return Scored(path=path, score=score)
            case happened.Selected(kept, pruned):
                return Selected(kept=kept, pruned=pruned)
            case happened.Answered(result):
                return Answered(solution=self.solution(result))

    def solution(self, result: Result) -> Solution:
        """The reply to this search."""
        chain = result.chain
        return Solution(
            id=self.id,
            model=self.model,
            question=self.question.text,
            answer=chain.answer,
            choice=meant(chain.answer, self.question.choices),
            confidence=result.ruler.confidence(chain),
            steps=tuple(candidate_of(step, kept=True) for step in chain.steps),
            answer_fields=dict(chain.candidates[-1].piece.fields) if chain.is_answered else {},
            answer_score=chain.answer_score,
            chain_score=result.value,
            strategy=self.spec.strategy.name,
            parameters=self.parameters,
            finish_reason=result.finish_reason,
            complete=result.is_complete,
            usage=Usage.model_validate(asdict(result.usage)),
            timings=Timings.model_validate(asdict(result.timings)),
            warnings=(*self.warnings, *result.warnings, *answer_warnings(chain, result.ruler)),
            tree=tree_of(result) if self.return_tree else None,
        )

    def trace(
        self,
        result: Result,
        *,
        ended: datetime,
        file_of: Callable[[Picture], str],
        policy: str,
        grammar: str,
        prm: str | None,
    ) -> Trace:
        """This search as it is stored. ``file_of``: a picture's file, relative to the trace folder. ``policy``,
        ``prm``: the models' names."""
        return Trace(
            id=self.id,
            time=ended,
            question=self.question.text,
            images=tuple(map(file_of, self.question.pictures)),
            history=tuple(StoredTurn.of(turn, file_of) for turn in self.question.history),
            policy=policy,
            grammar=grammar,
            prm=prm,
            scale=None if self.scale is None else Scale.of(self.scale),
            strategy=self.spec.strategy.name,
            parameters=self.parameters,
            tree=tree_of(result),
            chain=result.chain.path,
            answer=result.chain.answer,
            chain_score=result.value,
            finish_reason=result.finish_reason,
            usage=Usage.model_validate(asdict(result.usage)),
            timings=Timings.model_validate(asdict(result.timings)),
        )


def candidate_of(found: Proposal, *, kept: bool = False) -> Candidate:
    """A candidate of the search on the wire. ``kept``: whether it stands in the winning chain."""
    return Candidate(
        path=found.path,
        text=found.piece.text,
        fields=dict(found.piece.fields),
        answer=found.answer,
        end=found.end,
        score=found.score,
        tokens=found.tokens,
        logprob=found.logprob,
        kept=kept,
    )


def tree_of(result: Result) -> tuple[Candidate, ...]:
    """Every candidate in path order."""
    kept = {candidate.path for candidate in result.chain.candidates}
    return tuple(candidate_of(candidate, kept=candidate.path in kept) for candidate in result.tree)
