"""One search from question to result: `run` tells what happens, `solve` waits for the end.

At any limit the best chain so far is the answer, and the result says which limit it was.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from copy import copy
from typing import Any

from cos.search.answers import PlainComparer
from cos.search.errors import BudgetExhausted, EngineDead, EngineError, InputError, SearchFailed
from cos.search.events import Answered, Event, Opened, Proposed
from cos.search.models import Models
from cos.search.ports import Comparer, PlacesPictures, PolicySession, Scorer, ScorerSession
from cos.search.prompt import pictures_first, question_prompt
from cos.search.result import Result
from cos.search.search import Search
from cos.search.spec import SearchSpec
from cos.search.stop import Stop
from cos.search.stopwatch import Stopwatch
from cos.search.tasks import dismiss, forget_frames, leaving_nothing
from cos.search.trust import picture_warnings, score_warnings
from cos.search.types import Chain, FinishReason, Question
from cos.search.workings import Workings

PLAIN = PlainComparer()


async def run(
    question: Question,
    spec: SearchSpec,
    models: Models,
    comparer: Comparer = PLAIN,
    stop: Stop | None = None,
    stopwatch: Stopwatch | None = None,
) -> AsyncGenerator[Event, None]:
    """Searches, telling what happens; the last event is `Answered`. Close the iterator to cancel the search.
    ``comparer`` tells which answers are the same, where a strategy votes. ``stop`` ends the search as a limit does.
    ``stopwatch`` times it: one that was started when the search was asked for, or that tells a listener of each piece
    of work. Unless given, the time begins now.

    Errors: InputError (before any engine work), EngineError (also when the PRM failed to score most of what it was
    shown), SearchFailed when a limit came before the first candidate.
    """
    events: asyncio.Queue[Event | None] = asyncio.Queue()

    def tell(event: Event) -> None:
        # As it is now: whoever reads the event later must not find the score there.
        events.put_nowait(Proposed(copy(event.candidate)) if isinstance(event, Proposed) else event)

    searching = _search(question, spec, models, comparer, tell, stop, stopwatch)
    task = asyncio.create_task(_tell(searching, events))
    try:
        while (event := await events.get()) is not None:
            yield event
        await task
    finally:
        try:
            await dismiss(task)
        finally:
            # The task holds the error, whose traceback holds this frame.
            del task


async def _tell(searching: Coroutine[Any, Any, Result], events: asyncio.Queue[Event | None]) -> None:
    """Puts the result behind all other events, and an end behind that, however the search ends."""
    try:
        events.put_nowait(Answered(await leaving_nothing(searching)))
    finally:
        events.put_nowait(None)


async def solve(question: Question, spec: SearchSpec, models: Models, comparer: Comparer = PLAIN) -> Result:
    """The result of a search. Cancel it to cancel the search. Errors: as `run`."""
    return await leaving_nothing(_search(question, spec, models, comparer, lambda _: None))


async def _search(
    question: Question,
    spec: SearchSpec,
    models: Models,
    comparer: Comparer,
    emit: Callable[[Event], None],
    stop: Stop | None = None,
    stopwatch: Stopwatch | None = None,
) -> Result:
    watch = stopwatch or Stopwatch()
    scorer = models.scorer
    terms = spec.terms(scorer.scale if scorer else None)
    workings: Workings | None = None
    search: Search | None = None
    limit: FinishReason | None = None
    chain: Chain | None = None
    deadline, stop = asyncio.timeout(spec.limits.seconds), stop or Stop()
    try:
        async with deadline:
            stop.watch(deadline)
            with watch.during("open"):
                session, scoring = await _open(question, spec, models)
            emit(Opened(spec.strategy.name, session.prompt_tokens))
            workings = Workings.of(terms, models, session, scoring, emit, watch)
            search = Search(question, terms, models, workings, comparer, emit, watch)
            search.warnings += spec.warnings
            if scoring is not None:
                search.warnings += picture_warnings(len(question.all_pictures), models)
            if scoring is None and scorer is not None and spec.score == "prm":
                search.warnings.append("the PRM's engine is gone; nothing is scored")
            chain = search.settled(await spec.strategy.run(search, spec.params))
            if spec.explain:
                await search.explain(chain)
    except BudgetExhausted as spent:
        forget_frames(spent)
        limit = spent.kind
    except EngineError as error:
        chain = search.best_so_far() if search else None
        if isinstance(error, EngineDead) or search is None or chain is None or not chain.is_answered:
            raise
        forget_frames(error)
        search.warnings.append(f"{error}; this is the best answer so far")
    except TimeoutError as late:
        if not deadline.expired():
            raise
        forget_frames(late)
        limit = "shutdown" if stop.is_set else "seconds"
    finally:
        stop.forget(deadline)
        if workings is not None:
            await workings.speculation.settle()
    winner = chain or (search.best_so_far() if search else None)
    if workings is None or search is None or winner is None:
        raise SearchFailed(f"the limit on {limit} was reached before the first candidate; raise it", str(limit))
    workings.scoring.trust.check()
    usage = workings.usage(winner)
    if spec.score == "likelihood" or scorer is not None:
        search.warnings += score_warnings(winner, usage.candidates, usage.unscored, terms.ruler)
    search.warnings += workings.scoring.trust.warnings
    return Result(
        chain=winner,
        ruler=terms.ruler,
        value=terms.ruler.value(winner),
        finish_reason=limit if limit and chain is None else _reason(workings, winner),
        usage=usage,
        timings=watch.read(workings.account.first_candidate_at),
        tree=workings.tree.in_order(),
        # A vote that is taken several times says the same of itself each time.
        warnings=tuple(dict.fromkeys(search.warnings)),
    )


def _reason(workings: Workings, winner: Chain) -> FinishReason:
    if workings.account.limit is not None:
        return workings.account.limit
    last = winner.candidates[-1]
    if last.path in workings.account.starved:
        return "tokens"
    return "max_steps" if last.end == "step" else last.end


async def _open(question: Question, spec: SearchSpec, models: Models) -> tuple[PolicySession, ScorerSession | None]:
    name, policy, scorer = spec.strategy.name, models.policy, models.scorer
    if scorer is None and spec.score == "prm" and spec.strategy.needs_scores:
        message = f"strategy {name!r} ranks by PRM scores and there is no PRM; ask for score 'likelihood'"
        raise InputError(message, "score")
    if not (isinstance(policy, PlacesPictures) and policy.places_pictures):
        question = pictures_first(question)
    prompt = question_prompt(question, instruction=models.grammar.instruction, suffix=models.question_suffix)
    if scorer is None or spec.score != "prm":
        return await policy.open(prompt), None
    opening = asyncio.create_task(_open_scorer(scorer, question, must=spec.strategy.needs_scores))
    try:
        return await policy.open(prompt), await opening
    finally:
        try:
            await dismiss(opening)
        finally:
            del opening


async def _open_scorer(scorer: Scorer, question: Question, *, must: bool) -> ScorerSession | None:
    """None for a scorer that is dead and not needed."""
    try:
        return await scorer.open(question)
    except EngineDead:
        if must:
            raise
        return None
