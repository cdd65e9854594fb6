"""Results and events of a search as its clients see them."""

from cos.search.answers import meant
from cos.search.events import Answered, Event, Opened, Scored, Selected, Written
from cos.search.result import Result
from cos.search.trust import hesitation
from cos.search.types import Candidate, Timings, Usage
from cos.server.jobs import Job
from cos.server.streaming import frame
from cos.wire.request import NodeReply, SolveReply, StagesReply, StepReply, TimingsReply, UsageReply

EXCERPT_CHARS = 400


def solve_reply(job: Job, result: Result) -> SolveReply:
    """The whole answer to /solve."""
    chain = result.chain
    return SolveReply(
        id=job.id,
        model=job.model,
        question=job.question.text,
        answer=chain.answer,
        choice=meant(chain.answer, job.question.choices),
        confidence=job.spec.ruler.confidence(chain),
        steps=tuple(step_reply(index, step) for index, step in enumerate(chain.steps, 1)),
        answer_score=chain.answer_score,
        chain_score=result.value,
        strategy=job.spec.strategy.name,
        parameters=job.parameters,
        finish_reason=result.finish_reason,
        complete=result.is_complete,
        usage=usage_reply(result.usage),
        timings=timings_reply(result.timings),
        warnings=(*job.warnings, *result.warnings, *hesitation(chain, job.spec.ruler)),
        tree=tree_reply(result) if job.return_tree else None,
    )


def usage_reply(usage: Usage) -> UsageReply:
    """What a search cost."""
    return UsageReply(
        tokens_generated=usage.tokens_generated,
        tokens_kept=usage.tokens_kept,
        tokens_duplicate=usage.tokens_duplicate,
        tokens_asked=usage.tokens_asked,
        tokens_aborted=usage.tokens_aborted,
        tokens_discarded=usage.tokens_discarded,
        policy_prompt_tokens=usage.policy_prompt_tokens,
        policy_cached_tokens=usage.policy_cached_tokens,
        candidates=usage.candidates,
        candidates_duplicate=usage.candidates_duplicate,
        candidates_aborted=usage.candidates_aborted,
        candidates_begun_ahead=usage.candidates_begun_ahead,
        candidates_begun_in_vain=usage.candidates_begun_in_vain,
        prm_reads=usage.prm_reads,
        prm_prompt_tokens=usage.prm_prompt_tokens,
        prm_cached_tokens=usage.prm_cached_tokens,
        unscored=usage.unscored,
        requests_aborted=usage.requests_aborted,
        requests_failed=usage.requests_failed,
    )


def timings_reply(timings: Timings) -> TimingsReply:
    """How long a search took, and what with."""
    stages = timings.stages
    return TimingsReply(
        first_candidate_s=timings.first_candidate_s,
        total_s=timings.total_s,
        stages=StagesReply(
            queue_s=stages.queue_s,
            decode_s=stages.decode_s,
            open_s=stages.open_s,
            generate_s=stages.generate_s,
            score_s=stages.score_s,
            vote_s=stages.vote_s,
            select_s=stages.select_s,
        ),
    )


def step_reply(index: int, candidate: Candidate) -> StepReply:
    """One step of the winning chain."""
    step = candidate.step
    return StepReply(
        index=index,
        name=step.name if step else None,
        thought=step.thought if step else None,
        reflection=step.reflection if step else None,
        score=candidate.score,
        end=candidate.end,
        excerpt=_excerpt(candidate),
    )


def node_reply(candidate: Candidate, *, kept: bool) -> NodeReply:
    """One candidate of the tree."""
    step = candidate.step
    return NodeReply(
        path=candidate.path,
        parent=candidate.path[:-1],
        end=candidate.end,
        name=step.name if step else None,
        thought=step.thought if step else None,
        reflection=step.reflection if step else None,
        answer=candidate.answer,
        excerpt=_excerpt(candidate),
        score=candidate.score,
        tokens=len(candidate.token_ids),
        kept=kept,
    )


def tree_reply(result: Result) -> tuple[NodeReply, ...]:
    """Every candidate in path order."""
    kept = {candidate.path for candidate in result.chain.candidates}
    return tuple(node_reply(candidate, kept=candidate.path in kept) for candidate in result.tree)


def _excerpt(candidate: Candidate) -> str | None:
    """The raw text's beginning where the grammar found neither a step nor an answer in it."""
    return candidate.text[:EXCERPT_CHARS] if candidate.step is None and candidate.answer is None else None


def event_frame(job: Job, event: Event, number: int) -> str:
    """One event of a search on the wire of /solve with ``stream``."""
    match event:
        case Opened(strategy, prompt_tokens):
            data = {"id": job.id, "strategy": strategy, "parameters": job.parameters, "prompt_tokens": prompt_tokens}
            return frame(data, event="opened", number=number)
        case Written(candidate):
            node = node_reply(candidate, kept=False).model_dump_json(exclude={"kept"})
            return frame(node, event="candidate", number=number)
        case Scored(path, score):
            return frame({"path": path, "score": score}, event="scored", number=number)
        case Selected(kept, pruned):
            return frame({"kept": kept, "pruned": pruned}, event="selected", number=number)
        case Answered(result):
            text = solve_reply(job, result).model_dump_json()
            return frame(text, event="answered", number=number)
