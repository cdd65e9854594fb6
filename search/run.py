"""One search from question to result: `run` tells what happens, `solve` waits for the end.

At any limit the best chain so far is the answer, and the result says which limit it was.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from cos.search.answers import PlainComparer
from cos.search.errors import BudgetExhausted, EngineDead, EngineError, InputError, SearchFailed
from cos.search.events import Answered, Event, Opened
from cos.search.grammar import CosGrammar
from cos.search.ports import Comparer, Policy, PolicySession, Scorer, ScorerSession
from cos.search.requests import Requests
from cos.search.search import Search
from cos.search.spec import SearchSpec
from cos.search.stop import Stop
from cos.search.stopwatch import Stopwatch
from cos.search.tasks import dismiss, forget_frames, leaving_nothing
from cos.search.trust import doubts
from cos.search.types import Chain, FinishReason, Question, Result

PLAIN = PlainComparer()


async def run(
    question: Question,
    spec: SearchSpec,
    policy: Policy,
    scorer: Scorer | None,
    grammar: CosGrammar,
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

    searching = _search(question, spec, policy, scorer, grammar, comparer, events.put_nowait, stop, stopwatch)
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


async def solve(
    question: Question,
    spec: SearchSpec,
    policy: Policy,
    scorer: Scorer | None,
    grammar: CosGrammar,
    comparer: Comparer = PLAIN,
) -> Result:
    """The result of a search. Cancel it to cancel the search. Errors: as `run`."""
    return await leaving_nothing(_search(question, spec, policy, scorer, grammar, comparer, lambda _: None))


async def _search(
    question: Question,
    spec: SearchSpec,
    policy: Policy,
    scorer: Scorer | None,
    grammar: CosGrammar,
    comparer: Comparer,
    emit: Callable[[Event], None],
    stop: Stop | None = None,
    stopwatch: Stopwatch | None = None,
) -> Result:
    watch = stopwatch or Stopwatch()
    requests: Requests | None = None
    search: Search | None = None
    limit: FinishReason | None = None
    chain: Chain | None = None
    deadline, stop = asyncio.timeout(spec.limits.seconds), stop or Stop()
    try:
        async with deadline:
            stop.watch(deadline)
            with watch.during("open"):
                session, judge = await _open(question, spec, policy, scorer)
            emit(Opened(spec.strategy.name, session.prompt_tokens))
            requests = Requests(spec, grammar, policy, session, judge, emit, watch)
            search = Search(question, spec, policy, requests, comparer, emit, watch)
            if judge is None and scorer is not None and spec.ruler.kind == "prm":
                search.warnings.append("the PRM's engine is gone; nothing is scored")
            # Type checkers that follow the links under src/ see this module, and its Search, twice.
            chain = await spec.strategy.run(search, spec.params)  # pyright: ignore[reportArgumentType]
            chain = search.settled(chain)
            if spec.explain:
                chain = await search.explain(chain)
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
        if requests is not None:
            await requests.settle()
    winner = chain or (search.best_so_far() if search else None)
    if requests is None or search is None or winner is None:
        raise SearchFailed(f"the limit on {limit} was reached before the first candidate; raise it", str(limit))
    requests.trust.check()
    usage = requests.usage(winner)
    if spec.ruler.kind == "likelihood" or scorer is not None:
        search.warnings += doubts(winner, usage.candidates, usage.unscored)
    return Result(
        chain=winner,
        value=spec.ruler.value(winner),
        finish_reason=limit if limit and chain is None else _reason(requests, winner),
        usage=usage,
        timings=watch.read(requests.first_candidate_at),
        tree=tuple(requests.tree[path] for path in sorted(requests.tree)),
        # A vote that is taken several times says the same of itself each time.
        warnings=tuple(dict.fromkeys(search.warnings)),
    )


def _reason(requests: Requests, winner: Chain) -> FinishReason:
    if requests.limit is not None:
        return requests.limit
    last = winner.candidates[-1]
    if last.path in requests.starved:
        return "tokens"
    return "max_steps" if last.end == "step" else last.end


async def _open(
    question: Question, spec: SearchSpec, policy: Policy, scorer: Scorer | None
) -> tuple[PolicySession, ScorerSession | None]:
    name = spec.strategy.name
    if scorer is None and spec.ruler.kind == "prm" and spec.strategy.needs_scores:
        message = f"strategy {name!r} ranks by PRM scores and there is no PRM; ask for score 'likelihood'"
        raise InputError(message, "score")
    if scorer is None or spec.ruler.kind != "prm":
        return await policy.open(question), None
    judge = asyncio.create_task(_open_scorer(scorer, question, must=spec.strategy.needs_scores))
    try:
        return await policy.open(question), await judge
    finally:
        try:
            await dismiss(judge)
        finally:
            del judge


async def _open_scorer(scorer: Scorer, question: Question, *, must: bool) -> ScorerSession | None:
    """None for a scorer that is dead and not needed."""
    try:
        return await scorer.open(question)
    except EngineDead:
        if must:
            raise
        return None
