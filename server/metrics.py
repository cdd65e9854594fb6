"""What Prometheus sees of the server: its own metrics, each declared once (`docs/metrics.md` has them as a table).

No label value is ever taken from a request: endpoints are the routes', strategies are those that were resolved, all
other labels have a fixed set of values. So the number of series is bounded, whatever is sent.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, PlatformCollector, ProcessCollector

from cos.search.chain_scores import ScoredChain
from cos.search.errors import ImageFault
from cos.server.admission import Admission, Refusal
from cos.server.recording import Recording
from cos.server.traces import Status
from cos.server.watch import ENGINES, Watch

Outcome = Literal["ok", "partial", "rejected", "failed", "cancelled"]
"""How a request ended. Every request ends in exactly one of these."""

# vLLM's request latencies, so that the two can be laid over each other; searches need the long tail.
_SECONDS = (0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
_SHORT_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
# Fewer: there are as many histograms of these as strategies times stages.
_STAGE_SECONDS = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 15, 60)
_LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_DEPTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32)


@dataclass(slots=True)
class Account:
    """One request as it is counted. Filled in as more becomes known."""

    endpoint: str
    request_id: str = ""
    strategy: str = ""
    outcome: Outcome | None = None
    tokens: int | None = None
    """Tokens that its search has generated; None where none began."""
    pictures: int | None = None
    """Pictures of its question and of the conversation before it; None where it was refused before they were known."""
    question: str | None = None
    """What was asked, where it may be logged."""
    error: str | None = None
    """The code of the error that its reply tells."""
    recording: Recording | None = field(default=None, repr=False)
    """Hears of its search, where that is to become spans."""
    arrived: float = field(default_factory=time.perf_counter)
    """`time.perf_counter` seconds."""

    @property
    def exemplar(self) -> dict[str, str] | None:
        """What a latency is to be traced back by."""
        if not self.request_id:
            return None
        trace = {"trace_id": self.recording.trace_id} if self.recording else {}
        return {"request_id": self.request_id, **trace}


class Metrics:
    """The server's metrics. Those who work report to it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = self._counter(
            "cos_requests_total",
            "Requests for a search by how they ended: ok, partial (a limit came first), rejected, failed, cancelled.",
            "endpoint strategy status",
        )
        self._refusals = self._counter(
            "cos_admission_rejections_total",
            "Searches refused a place: queue_full, queue_timeout (it waited as long as a search may take), draining.",
            "reason",
        )
        self._in_progress = self._gauge("cos_requests_in_progress", "Searches that have a place.")
        self._queued = self._gauge("cos_requests_queued", "Searches that wait for a place.")
        self._most_running = self._gauge(
            "cos_concurrent_searches_limit", "Searches that may have a place at once (--max-concurrent-searches)."
        )
        self._most_queued = self._gauge(
            "cos_queued_searches_limit", "Searches that may wait for a place (--max-queued-searches)."
        )
        self._request_seconds = self._histogram(
            "cos_request_duration_seconds", "Wall time of a request, queue included.", "endpoint strategy", _SECONDS
        )
        self.queue_seconds = self._histogram(
            "cos_queue_duration_seconds", "Wait of a search that got a place.", "strategy", _SHORT_SECONDS
        )
        self.first_step_seconds = self._histogram(
            "cos_time_to_first_step_seconds",
            "From a request's arrival to the first candidate step, queue included.",
            "strategy",
            _SHORT_SECONDS,
        )
        self.answer_seconds = self._histogram(
            "cos_time_to_answer_seconds",
            "From a request's arrival to its answer, queue included; only searches that have one.",
            "strategy",
            _SECONDS,
        )
        self.stage_seconds = self._histogram(
            "cos_search_stage_duration_seconds",
            "Time that a search spent in a stage: queue, decode, open, generate, score, vote, select. They add up to "
            "its wall time.",
            "strategy stage",
            _STAGE_SECONDS,
        )
        self.depth = self._histogram(
            "cos_search_depth_steps", "Candidates in the chain that a search ended with.", "strategy", _DEPTHS
        )
        self.candidates = self._counter(
            "cos_candidates_total",
            "Candidates by outcome: kept (in the answer's chain), duplicate (the same text as another), "
            "pruned (all others that were written), aborted (begun, and broken off or not wanted).",
            "strategy outcome",
        )
        self.begun_ahead = self._counter(
            "cos_candidates_begun_ahead_total",
            "Candidates begun before it was decided that they are wanted: used, dropped.",
            "strategy outcome",
        )
        self.tokens = self._counter(
            "cos_policy_tokens_total",
            "Generated tokens by outcome: kept (in the answer's chain), duplicate, asked (the policy's replies about "
            "its own candidates), aborted, discarded.",
            "strategy outcome",
        )
        self.prompt_tokens = self._counter(
            "cos_prompt_tokens_total",
            "Prompt tokens of requests to an engine: cached (from its prefix cache), computed.",
            "engine source",
        )
        self.reads = self._counter("cos_prm_reads_total", "Scores read from the PRM.", "strategy")
        self.prm_tokens = self._counter(
            "cos_prm_tokens_total", "Tokens that the PRM wrote for its verdicts, if it is one that writes.", "strategy"
        )
        self.unscored = self._counter(
            "cos_unscored_total", "Candidates whose score was missing or not finite.", "strategy"
        )
        self.scores = self._histogram(
            "cos_prm_score",
            "PRM scores of candidates, from 0 (the lowest of their scale) to 1 (the highest).",
            "strategy",
            _TENTHS,
        )
        self.limits = self._counter(
            "cos_search_limits_total",
            "Searches that a limit ended or narrowed: tokens, prm_reads, seconds, max_steps, truncated (a step's "
            "tokens), shutdown.",
            "strategy limit",
        )
        self._engine_up = self._gauge("cos_engine_up", "1 while an engine lives and takes steps.", "engine")
        self._freezes = self._counter(
            "cos_engine_freezes_total",
            "Times an engine took no step for longer than --engine-patience-s.",
            "engine",
        )
        self.engine_failures = self._counter(
            "cos_engine_request_failures_total",
            "Requests of searches to an engine that failed; each may have been tried again.",
            "engine",
        )
        self._decode_seconds = self._histogram(
            "cos_image_decode_duration_seconds",
            "Decoding of a picture, its wait for a thread included.",
            buckets=_SHORT_SECONDS,
        )
        self._picture_refusals = self._counter(
            "cos_image_rejections_total", f"Pictures refused: {', '.join(get_args(ImageFault))}.", "reason"
        )
        self._lag_seconds = self._histogram(
            "cos_event_loop_lag_seconds",
            "How much later than due a timer of the server ran, four times a second.",
            buckets=_LAG_SECONDS,
        )
        self._traces = self._counter(
            "cos_traces_total", "Finished searches written to the trace folder, or not: stored, failed.", "status"
        )
        self._collector_failures = self._counter(
            "cos_collector_failures_total",
            "Collectors that failed at a scrape, which lacked their series: of the server, of an engine.",
            "source",
        )
        self._build = Info("cos_build", "Version and models.", registry=self.registry)
        self._begin()

    def watch(self, admission: Admission, watch: Watch) -> None:
        """Shows what these know as gauges."""
        self._in_progress.set_function(lambda: admission.running)
        self._queued.set_function(lambda: admission.queued)
        self._most_running.set(admission.max_running)
        self._most_queued.set(admission.max_queued)
        for engine in watch.names:
            self._engine_up.labels(engine).set_function(lambda engine=engine: watch.is_up(engine))
            self._freezes.labels(engine)
            self.engine_failures.labels(engine)

    def describe(self, *, version: str, policy: str, prm: str) -> None:
        """Sets what ``cos_build_info`` tells."""
        self._build.info({"version": version, "policy": policy, "prm": prm})

    def ended(self, account: Account, outcome: Outcome) -> None:
        """Counts a request that is over."""
        elapsed = time.perf_counter() - account.arrived
        for possible in get_args(Outcome):
            # Shares of all outcomes have data from the first request on.
            self._requests.labels(account.endpoint, account.strategy, possible).inc(possible == outcome)
        self._request_seconds.labels(account.endpoint, account.strategy).observe(elapsed, account.exemplar)

    def refused(self, reason: Refusal) -> None:
        """Counts a search that gets no place."""
        self._refusals.labels(reason).inc()

    def froze(self, engine: str) -> None:
        """Counts an engine that takes no step any more."""
        self._freezes.labels(engine).inc()

    def scored(self, purpose: str, chains: Sequence[ScoredChain]) -> None:
        """Counts the reads of a request for scores. ``purpose``: "score" or "rerank", in place of a strategy."""
        cached = sum(chain.prm_cached_tokens for chain in chains)
        self.reads.labels(purpose).inc(sum(chain.prm_reads for chain in chains))
        self.prompt_tokens.labels("prm", "cached").inc(cached)
        self.prompt_tokens.labels("prm", "computed").inc(sum(chain.prm_prompt_tokens for chain in chains) - cached)
        if written := sum(chain.prm_tokens_generated for chain in chains):
            self.prm_tokens.labels(purpose).inc(written)
        if failures := sum(len(chain.failures) for chain in chains):
            self.engine_failures.labels("prm").inc(failures)

    def decoded(self, seconds: float) -> None:
        """Counts a picture."""
        self._decode_seconds.observe(seconds)

    def refused_picture(self, fault: ImageFault) -> None:
        """Counts a picture that cannot be used."""
        self._picture_refusals.labels(fault).inc()

    def collector_failed(self, source: str) -> None:
        """Counts a collector that could not be read."""
        self._collector_failures.labels(source).inc()

    def lagged(self, seconds: float) -> None:
        """Counts a timer that ran."""
        self._lag_seconds.observe(seconds)

    def traced(self, status: Status) -> None:
        """Counts a trace."""
        self._traces.labels(status).inc()

    def _begin(self) -> None:
        """Series that are there from the start, so that their first increase is one."""
        for reason in get_args(Refusal):
            self._refusals.labels(reason)
        for fault in get_args(ImageFault):
            self._picture_refusals.labels(fault)
        for status in get_args(Status):
            self._traces.labels(status)
        for source in ("server", *ENGINES):
            self._collector_failures.labels(source)

    def _counter(self, name: str, text: str, labels: str = "") -> Counter:
        return Counter(name, text, labels.split(), registry=self.registry)

    def _gauge(self, name: str, text: str, labels: str = "") -> Gauge:
        return Gauge(name, text, labels.split(), registry=self.registry)

    def _histogram(self, name: str, text: str, labels: str = "", buckets: tuple[Any, ...] = _SECONDS) -> Histogram:
        return Histogram(name, text, labels.split(), buckets=buckets, registry=self.registry)
