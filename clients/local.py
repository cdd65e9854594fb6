"""A search in this process, told as a server tells it."""

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cos.clients import models
from cos.engines.pictures import Origin, decode
from cos.search import events
from cos.search.answers import meant
from cos.search.result import Result
from cos.search.run import run
from cos.search.spec import SearchSpec
from cos.search.trust import hesitation
from cos.search.types import Candidate, Question
from cos.training.engines import Running

EXCERPT_CHARS = 400


async def stream(
    running: Running, model: str, image: bytes, question: str, spec: SearchSpec, choices: tuple[str, ...] = ()
) -> AsyncGenerator[models.Event]:
    """What happens in the search, as it happens; the last event holds the solution.

    Errors: InputError, EngineError, SearchFailed.
    """
    asked = Question(question, await asyncio.to_thread(decode, image, Origin("image")), choices)
    teller = _Teller(f"local-{uuid.uuid4().hex}", Path(model).name, asked, spec)
    pair = running.pair
    async with aclosing(run(asked, spec, pair.policy, pair.scorer, pair.grammar)) as happening:
        async for event in happening:
            yield teller.tell(event)


class _Teller:
    """Turns the events of one search into the client's."""

    def __init__(self, search_id: str, model: str, question: Question, spec: SearchSpec) -> None:
        self._id = search_id
        self._model = model
        self._question = question
        self._spec = spec
        self._parameters: dict[str, Any] = {
            **spec.params.model_dump(),
            **spec.sampling.model_dump(),
            "score": spec.ruler.kind,
            "aggregation": spec.ruler.aggregation,
            "step_weight": spec.ruler.step_weight,
        }

    def tell(self, event: events.Event) -> models.Event:
        match event:
            case events.Opened(strategy, prompt_tokens):
                return models.Opened(
                    id=self._id, strategy=strategy, parameters=self._parameters, prompt_tokens=prompt_tokens
                )
            case events.Written(candidate):
                return models.Written(node=_node(candidate, kept=False))
            case events.Scored(path, score):
                return models.Scored(path=path, score=score)
            case events.Selected(kept, pruned):
                return models.Selected(kept=kept, pruned=pruned)
            case events.Answered(result):
                return models.Answered(solution=self._solution(result))

    def _solution(self, result: Result) -> models.Solution:
        chain = result.chain
        kept = {candidate.path for candidate in chain.candidates}
        return models.Solution(
            id=self._id,
            model=self._model,
            question=self._question.text,
            answer=chain.answer,
            choice=meant(chain.answer, self._question.choices),
            confidence=self._spec.ruler.confidence(chain),
            steps=tuple(
                models.Step(index=index, score=step.score, end=step.end, **_text(step))
                for index, step in enumerate(chain.steps, 1)
            ),
            answer_score=chain.answer_score,
            chain_score=result.value,
            strategy=self._spec.strategy.name,
            parameters=self._parameters,
            finish_reason=result.finish_reason,
            complete=result.is_complete,
            usage=models.Usage(**asdict(result.usage)),
            timings=models.Timings(**asdict(result.timings)),
            warnings=(*result.warnings, *hesitation(chain, self._spec.ruler)),
            tree=tuple(_node(candidate, kept=candidate.path in kept) for candidate in result.tree),
        )


def _node(candidate: Candidate, *, kept: bool) -> models.Node:
    return models.Node(
        path=candidate.path,
        end=candidate.end,
        answer=candidate.answer,
        score=candidate.score,
        tokens=len(candidate.token_ids),
        kept=kept,
        **_text(candidate),
    )


def _text(candidate: Candidate) -> dict[str, str | None]:
    """What a candidate says; an excerpt where it is neither a step nor an answer."""
    step = candidate.step
    unread = step is None and candidate.answer is None
    return {
        "name": step.name if step else None,
        "thought": step.thought if step else None,
        "reflection": step.reflection if step else None,
        "excerpt": candidate.text[:EXCERPT_CHARS] if unread else None,
    }
