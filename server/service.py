"""One running server: its engines, their pair, who may search, and the way of one search through them."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace

from cos.checkpoints import resolve
from cos.engines.checkpoint import takes_system_text
from cos.engines.launch import Engines, launch
from cos.prm.pair import Pair, pair
from cos.search.errors import BadImage, EngineDead, InputError, SearchFailed
from cos.search.events import Answered, Event, Opened, Written
from cos.search.math_answers import MathComparer
from cos.search.result import Result
from cos.search.run import run
from cos.search.stop import Stop
from cos.search.stopwatch import Stopwatch
from cos.search.types import Picture, Question
from cos.server.admission import Admission
from cos.server.errors import Draining, EngineStuck, Overloaded, SearchTimeout, fault_of
from cos.server.exposition import Exposition, Source
from cos.server.images import ImageReader, Upload
from cos.server.jobs import Job, Planner
from cos.server.lag import sample_lag
from cos.server.meter import NoMeter, metered
from cos.server.metrics import Account, Metrics
from cos.server.race import cancelled
from cos.server.settings import Settings
from cos.server.traces import TraceStore
from cos.server.unmetered import Unmetered
from cos.server.watch import ENGINES, Watch
from cos.wire.job import solve_reply
from cos.wire.request import SolveReply

logger = logging.getLogger(__name__)

StartEngines = Callable[[Settings], Awaitable[Engines]]
Tell = Callable[[Event], None]


async def launch_engines(settings: Settings) -> Engines:
    """The engines that the settings ask for. Errors: InputError for a model that cannot be found or loaded."""
    policy = settings.engine_settings("policy")
    if policy is None:
        raise InputError("--policy: a server needs a policy", "policy")
    return await launch(policy, settings.engine_settings("prm"))


@dataclass(frozen=True, slots=True)
class Service:
    """What the routes work with."""

    settings: Settings
    engines: Engines
    pair: Pair
    planner: Planner
    images: ImageReader
    admission: Admission
    metrics: Metrics | Unmetered
    exposition: Exposition | None
    """What a scrape is told; None where nothing is counted."""
    started_at: int
    """Unix time, seconds."""
    watch: Watch
    """Knows how the engines are."""
    comparer: MathComparer
    """Tells which answers are the same."""
    takes_system_text: bool = True
    """Whether the policy can do with a system message; its checkpoint says so."""
    traces: TraceStore | None = None
    """Where finished searches are stored; None stores none."""
    stop: Stop = field(default_factory=Stop)
    """Set when even running searches must end, with the best they have."""

    @property
    def is_ready(self) -> bool:
        """Whether a search would be let in."""
        return self.watch.is_well and not self.admission.is_draining

    async def take(self, source: str | bytes, param: str) -> Upload:
        """A picture that was sent, not decoded yet. Errors: Overloaded when the server is full, whatever was sent;
        BadImage, ImageUrlDisabled."""
        self.admission.refuse_if_full()
        with self._counting_refusals():
            return await self.images.take(source, param)

    async def decode(self, upload: Upload) -> Picture:
        """A picture. Errors: BadImage."""
        began = time.perf_counter()
        with self._counting_refusals():
            picture = await self.images.decode(upload)
        self.metrics.decoded(time.perf_counter() - began)
        return picture

    @contextmanager
    def _counting_refusals(self) -> Generator[None]:
        try:
            yield
        except BadImage as error:
            self.metrics.refused_picture(error.fault)
            raise

    def question(self, text: str, upload: Upload | None, choices: tuple[str, ...] = ()) -> Question:
        """A question whose picture, if it has one, is decoded later. Errors: InputError when there is none and this
        server needs one."""
        if upload is None and self.settings.image_required:
            raise InputError(
                "image is missing; send a data URI, or the file as multipart/form-data "
                "(--no-image-required lets questions without one in)",
                "image",
            )
        return Question(text, None, choices)

    def search(self, job: Job, upload: Upload | None, account: Account, *, stored: bool = True) -> "Run":
        """A search that has not begun yet. ``upload``: the picture of its question. ``stored``: whether it leaves a
        trace, where traces are wanted."""
        return Run(self, job, upload, account, self.traces if stored else None)

    async def drain(self) -> None:
        """Lets running searches end, up to the shutdown time-out, then ends them with the best they have."""
        if not await self.admission.drain(self.settings.shutdown_timeout_s):
            logger.warning("%d searches did not end in time", self.admission.running)
            self.stop.set()


@asynccontextmanager
async def open_service(
    settings: Settings, metrics: Metrics | Unmetered, start: StartEngines
) -> AsyncGenerator[Service]:
    """Starts the engines, matches them, and stops them at the end.

    Errors: InputError for models that do not fit, or a trace folder that cannot be written to.
    """
    traces = _open_traces(settings, metrics)
    engines = await start(settings)
    watch = Watch(engines, settings.engine_patience_s, metrics.froze)
    beside = [asyncio.create_task(watch.run())]
    try:
        admission = Admission(settings.max_concurrent_searches, settings.max_queued_searches, metrics.refused)
        metrics.watch(admission, watch)
        if isinstance(metrics, Metrics):
            beside.append(asyncio.create_task(sample_lag(metrics.lagged)))
        async with MathComparer() as comparer:
            with ImageReader(settings.picture_limits) as images:
                yield Service(
                    settings=settings,
                    engines=engines,
                    pair=pair(engines.policy, engines.prm),
                    planner=Planner(settings, has_prm=engines.prm is not None),
                    images=images,
                    admission=admission,
                    metrics=metrics,
                    exposition=_exposition(metrics, engines) if isinstance(metrics, Metrics) else None,
                    started_at=int(time.time()),
                    watch=watch,
                    comparer=comparer,
                    takes_system_text=takes_system_text(resolve("policy", settings.policy)),
                    traces=traces,
                )
    finally:
        await cancelled(*beside)
        await engines.close()
        if traces is not None:
            await traces.close()


def _exposition(metrics: Metrics, engines: Engines) -> Exposition:
    """The server's series and those of its engines, which are told apart by a label."""
    named = zip(ENGINES, engines.all, strict=False)
    sources = [Source(name, engine.registry, {"cos_engine": name}) for name, engine in named]
    return Exposition([*sources, Source("server", metrics.registry)], metrics.collector_failed)


def _open_traces(settings: Settings, metrics: Metrics | Unmetered) -> TraceStore | None:
    if settings.trace_dir is None:
        return None
    return TraceStore(settings.trace_dir, settings.policy, settings.prm_name, metrics.traced)


class Run:
    """One search: it waits for its place, decodes its picture, runs, is counted, and ends in exactly one outcome."""

    def __init__(
        self, service: Service, job: Job, upload: Upload | None, account: Account, traces: TraceStore | None
    ) -> None:
        self.job = job
        self.prompt_tokens = 0
        self._service = service
        self._upload = upload
        self._account = account
        self._traces = traces
        self._recording = account.recording
        self._watch = Stopwatch(self._recording.hear if self._recording else None)
        account.strategy = job.spec.strategy.name
        if self._recording is not None:
            self._recording.job = job
        if service.settings.log_questions:
            account.question = job.question.text

    async def finish(self, tell: Tell | None = None) -> SolveReply:
        """The reply, once the search is over; ``tell`` hears of every event. Cancel it to abort the search.

        Errors: Overloaded, Draining, EngineDead, EngineStuck, EngineError, InputError, SearchTimeout, SearchFailed.
        """
        self._account.outcome = "cancelled"
        try:
            result = await self._admitted(tell)
        except (InputError, Overloaded, Draining, EngineStuck, SearchFailed) as error:
            self._account.outcome, self._account.error = "rejected", fault_of(error).code
            raise
        except Exception as error:
            self._account.outcome, self._account.error = "failed", fault_of(error).code
            raise
        self._account.outcome = "ok" if result.is_complete else "partial"
        if self._traces is not None:
            self._traces.put(self.job, result)
        return self.reply(result)

    def reply(self, result: Result) -> SolveReply:
        """The whole answer."""
        return solve_reply(self.job, result)

    async def _admitted(self, tell: Tell | None) -> Result:
        service, spec = self._service, self.job.spec
        if not service.engines.policy.is_alive:
            raise EngineDead("the policy engine has died")
        needed = {"policy", "prm"} if spec.ruler.kind == "prm" else {"policy"}
        if stuck := service.watch.frozen & needed:
            raise EngineStuck(f"the {' and the '.join(sorted(stuck))} engine makes no progress; try again later")
        with metered(service.metrics, self._account, self._watch, with_prm=spec.ruler.kind == "prm") as meter:
            async with AsyncExitStack() as place:
                with self._watch.during("queue"):
                    await place.enter_async_context(service.admission.place(service.settings.timeout_s))
                meter.admitted()
                return await self._search(meter, tell)

    async def _decode(self) -> None:
        """Gives the question its picture."""
        if self._upload is not None:
            with self._watch.during("decode"):
                picture = await self._service.decode(self._upload)
            self._upload, self.job = None, replace(self.job, question=replace(self.job.question, picture=picture))

    async def _search(self, meter: NoMeter, tell: Tell | None) -> Result:
        await self._decode()
        job, pair, started = self.job, self._service.pair, time.perf_counter()
        service = self._service
        engines = pair.policy, pair.scorer, pair.grammar
        searching = run(job.question, job.spec, *engines, service.comparer, service.stop, self._watch)
        try:
            async with aclosing(searching) as events:
                async for event in events:
                    meter.see(event)
                    self._note(event)
                    if tell is not None:
                        tell(event)
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

    def _note(self, event: Event) -> None:
        if self._recording is not None:
            self._recording.see(event)
        match event:
            case Opened(_, prompt_tokens):
                self.prompt_tokens, self._account.tokens = prompt_tokens, 0
            case Written(candidate):
                self._account.tokens = (self._account.tokens or 0) + len(candidate.token_ids)
            case Answered(result):
                self._account.tokens = result.usage.tokens_generated
            case _:
                pass
