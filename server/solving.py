"""The way of one search through the server: it waits for its place, decodes its pictures, searches, is counted and
stored, and ends in exactly one outcome."""

import time
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace

from cos.engines.ports import ComesBack
from cos.search.errors import EngineDead, InputError, SearchFailed
from cos.search.events import Answered, Event, Opened, Proposed
from cos.search.result import Result
from cos.search.run import run
from cos.search.stopwatch import Stopwatch
from cos.server.errors import Draining, EngineStuck, Overloaded, SearchTimeout, fault_of
from cos.server.images import Upload
from cos.server.meter import NoMeter, metered
from cos.server.metrics import Account
from cos.server.service import Service
from cos.wire.asked import Asked, Sent, said
from cos.wire.job import Job
from cos.wire.reply import Solution
from cos.wire.request import AskedFields

Listener = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Undecoded:
    """A question whose pictures wait to be decoded."""

    asked: Asked
    uploads: tuple[Upload, ...]
    """In the order in which they are shown."""


async def taken(
    service: Service, wanted: AskedFields, *, files: tuple[Sent, ...] = (), choices: tuple[str, ...] = (), at: str = ""
) -> Undecoded:
    """What a request asks, with its pictures. ``files``: those of a form. ``at``: what stands before a field's name in
    errors. Errors: as `Service.take`, and InputError for pictures in two fields."""
    if (wanted.image is not None) + (wanted.images is not None) + bool(files) > 1:
        raise InputError(f"{at}images: pictures are given in two fields; put all of them into images", f"{at}images")
    if wanted.history and not service.takes_system_text:
        raise InputError(
            f"{at}history: the policy {service.settings.policy} was trained on questions alone, as its config.json "
            "says (cos_system_text); leave it out, or serve another policy",
            f"{at}history",
        )
    earlier = said(wanted.history or (), f"{at}history")
    own = files or tuple(Sent(source, f"{at}images[{number}]") for number, source in enumerate(wanted.images or ()))
    if wanted.image is not None:
        own = (Sent(wanted.image, f"{at}image"),)
    uploads = await service.take([*(picture for turn in earlier for picture in turn.sent), *own])
    return Undecoded(Asked(wanted.question, choices, tuple(turn.turn for turn in earlier)), uploads)


async def solve(
    service: Service,
    job: Job,
    undecoded: Undecoded | None,
    account: Account,
    listener: Listener | None = None,
    *,
    stored: bool = True,
) -> Solution:
    """The reply, once the search is over. Cancel it to abort the search. ``undecoded``: its question, where that has
    pictures to decode. ``listener`` hears of every event. ``stored``: whether it leaves a trace, where traces are
    wanted.

    Errors: Overloaded, Draining, EngineDead, EngineStuck, EngineError, InputError, SearchTimeout, SearchFailed.
    """
    recording = account.recording
    stopwatch = Stopwatch(recording.hear if recording else None)
    account.strategy, account.outcome = job.spec.strategy.name, "cancelled"
    account.pictures = len(job.question.all_pictures if undecoded is None else undecoded.uploads)
    if recording is not None:
        recording.job = job
    if service.settings.log_questions:
        account.question = job.question.text
    try:
        job, result = await _admitted(service, job, undecoded, account, stopwatch, listener)
    except (InputError, Overloaded, Draining, EngineStuck, SearchFailed) as error:
        account.outcome, account.error = "rejected", fault_of(error).code
        raise
    except Exception as error:
        account.outcome, account.error = "failed", fault_of(error).code
        raise
    account.outcome = "ok" if result.is_complete else "partial"
    if stored and service.traces is not None:
        service.traces.put(job, result, service.models.grammar.name)
    return job.solution(result)


async def _admitted(
    service: Service,
    job: Job,
    undecoded: Undecoded | None,
    account: Account,
    stopwatch: Stopwatch,
    listener: Listener | None,
) -> tuple[Job, Result]:
    """The job with its pictures, and its result."""
    policy = service.engines.policy
    if not policy.is_alive:
        raise policy.loss if isinstance(policy, ComesBack) else EngineDead("the policy engine has died")
    scale = job.scale if job.spec.score == "prm" else None
    needed = {"policy", "prm"} if scale else {"policy"}
    if stuck := service.watch.frozen & needed:
        raise EngineStuck(f"the {' and the '.join(sorted(stuck))} engine makes no progress; try again later")
    with metered(service.metrics, account, stopwatch, scale) as meter:
        async with AsyncExitStack() as place:
            with stopwatch.during("queue"):
                await place.enter_async_context(service.admission.place(service.settings.timeout_s))
            meter.admitted()
            if undecoded is not None:
                with stopwatch.during("decode"):
                    pictures = [await service.decode(upload) for upload in undecoded.uploads]
                job = replace(job, question=undecoded.asked.question(pictures))
            return job, await _searched(service, job, account, stopwatch, meter, listener)


async def _searched(
    service: Service,
    job: Job,
    account: Account,
    stopwatch: Stopwatch,
    meter: NoMeter,
    listener: Listener | None,
) -> Result:
    started = time.perf_counter()
    searching = run(job.question, job.spec, service.models, service.comparer, service.stop, stopwatch)
    try:
        async with aclosing(searching) as events:
            async for event in events:
                meter.see(event)
                _note(account, event)
                if listener is not None:
                    listener(event)
                if isinstance(event, Answered):
                    return event.result
    except SearchFailed as error:
        meter.met(error.limit)
        if service.stop.is_set:
            raise Draining("the server shut down before the search had found anything") from error
        seconds = job.spec.limits.seconds
        if seconds is not None and time.perf_counter() - started >= seconds:
            raise SearchTimeout(f"no candidate within {seconds:g} s; allow more budget.seconds") from error
        raise
    raise AssertionError("a search ends with Answered or an error")


def _note(account: Account, event: Event) -> None:
    if account.recording is not None:
        account.recording.see(event)
    match event:
        case Opened():
            account.tokens = 0
        case Proposed(candidate):
            account.tokens = (account.tokens or 0) + candidate.tokens
        case Answered(result):
            account.tokens = result.usage.tokens_generated
        case _:
            pass
