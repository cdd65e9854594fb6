"""One running server: its engines and models, who may search, and what counts, stores and compares."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from cos.checkpoints import resolve
from cos.engines.checkpoint import takes_system_text
from cos.engines.launch import Engines, launch
from cos.engines.ports import HasMetrics
from cos.engines.preloading import preloading
from cos.prm.matching import match, unseen_pictures
from cos.search.errors import BadImage, InputError
from cos.search.math_answers import MathComparer
from cos.search.models import Models
from cos.search.stop import Stop
from cos.search.types import Picture
from cos.server.admission import Admission
from cos.server.checks.files import check_files
from cos.server.checks.finding import heed
from cos.server.exposition import Exposition, Source
from cos.server.images import ImageReader, Upload
from cos.server.lag import sample_lag
from cos.server.metrics import Metrics
from cos.server.picture_rule import PictureRule
from cos.server.planner import Planner
from cos.server.race import cancelled
from cos.server.settings import Settings
from cos.server.traces import TraceStore
from cos.server.unmetered import Unmetered
from cos.server.watch import ENGINES, Watch
from cos.wire.asked import Sent

logger = logging.getLogger(__name__)

StartEngines = Callable[[Settings], Awaitable[Engines]]


async def launch_engines(settings: Settings) -> Engines:
    """The engines that the settings ask for, unless their files tell that they cannot be used: warnings are logged.
    Errors: InputError for a model that cannot be found, used or loaded."""
    if settings.serves_shipped_pair:
        # Its files are checked by the tests: nothing is left to find out, and the check takes two seconds.
        return await start_engines(settings)
    with preloading([settings.engine_settings("policy"), settings.engine_settings("prm")]):
        heed(await check_files(settings))
    return await start_engines(settings)


async def start_engines(settings: Settings) -> Engines:
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
    models: Models
    planner: Planner
    images: ImageReader
    admission: Admission
    metrics: Metrics | Unmetered
    exposition: Exposition | None
    """Answers scrapes; None where nothing is counted."""
    started_at: int
    """Unix time, seconds."""
    watch: Watch
    """Knows how the engines are."""
    comparer: MathComparer
    """Tells which answers are the same."""
    pictures: PictureRule
    """How many pictures a question may have."""
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

    async def take(self, sent: Sequence[Sent]) -> tuple[Upload, ...]:
        """The pictures of one request, not decoded yet. Errors: Overloaded when the server is full, whatever was sent;
        InputError for more than its models take, or none where they need one; BadImage, ImageUrlDisabled."""
        if sent:
            self.admission.refuse_if_full()
        self.pictures.check(sent)
        with self._counting_refusals():
            return await self.images.take(sent) if sent else ()

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
    background = [asyncio.create_task(watch.run())]
    try:
        chosen = settings.prm_choice
        models = match(
            engines.policy,
            chosen.reader(engines.policy, engines.prm),
            grammar=settings.grammar,
            prm_format=chosen.prm_format,
            policy_suffix=settings.policy_suffix,
            prm_suffix=settings.prm_suffix,
            verdict_tokens=settings.prm_verdict_tokens,
        )
        if unseen := unseen_pictures(models):
            logger.warning("%s; %s", *unseen)
        admission = Admission(settings.max_concurrent_searches, settings.max_queued_searches, metrics.refused)
        metrics.watch(admission, watch)
        if isinstance(metrics, Metrics):
            background.append(asyncio.create_task(sample_lag(metrics.lagged)))
        async with MathComparer() as comparer:
            with ImageReader(settings.picture_limits) as images:
                yield Service(
                    settings=settings,
                    engines=engines,
                    models=models,
                    planner=Planner(settings, models.scorer.scale if models.scorer else None),
                    images=images,
                    admission=admission,
                    metrics=metrics,
                    exposition=_exposition(metrics, engines) if isinstance(metrics, Metrics) else None,
                    started_at=int(time.time()),
                    watch=watch,
                    comparer=comparer,
                    pictures=PictureRule.of(settings, engines, models),
                    takes_system_text=takes_system_text(resolve("policy", settings.policy)),
                    traces=traces,
                )
    finally:
        await cancelled(*background)
        await engines.close()
        if traces is not None:
            await traces.close()


def _exposition(metrics: Metrics, engines: Engines) -> Exposition:
    """The server's series and those of its engines, each with a label of its own."""
    named = zip(ENGINES, engines.all, strict=False)
    sources = [
        Source(name, engine.registry, {"cos_engine": name}) for name, engine in named if isinstance(engine, HasMetrics)
    ]
    return Exposition([*sources, Source("server", metrics.registry)], metrics.collector_failed)


def _open_traces(settings: Settings, metrics: Metrics | Unmetered) -> TraceStore | None:
    if settings.trace_dir is None:
        return None
    return TraceStore(settings.trace_dir, settings.policy, settings.prm_name, metrics.traced)
