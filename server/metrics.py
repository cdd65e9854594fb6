"""What Prometheus sees: our own metrics, declared once, and those of both engines in the same reply."""

import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cos.search.events import Answered, Event, Scored, Written
from cos.search.types import Usage
from cos.server.admission import Admission
from cos.server.recording import Recording

Outcome = Literal["ok", "partial", "rejected", "failed", "cancelled"]
"""How a request ended. Every request ends in exactly one of these."""

# vLLM's request latencies, so that the two can be laid over each other; searches need the long tail.
_SECONDS = (0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
_TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(slots=True)
class Account:
    """One request as it is counted. Filled in as more becomes known."""

    endpoint: str
    strategy: str = ""
    outcome: Outcome | None = None
    tokens: int | None = None
    """Tokens that its search has generated; None where none began."""
    question: str | None = None
    """What was asked, where it may be told."""
    error: str | None = None
    """The code of the error that its reply tells."""
    recording: Recording | None = field(default=None, repr=False)
    """Hears of its search, where that is to become spans."""


FATES = ("kept", "duplicate", "asked", "aborted", "discarded")
"""What becomes of a generated token, as `cos.search.types.Usage` has it."""


class Metrics:
    """The server's metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "cos_requests_total",
            "Requests by how they ended: ok, partial (a limit came first), rejected, failed, cancelled.",
            ["endpoint", "strategy", "status"],
            registry=registry,
        )
        self.rejections = Counter(
            "cos_admission_rejections_total", "Requests refused for want of a place.", registry=registry
        )
        self.request_seconds = Histogram(
            "cos_request_duration_seconds",
            "Wall time of a request, queue included.",
            ["endpoint", "strategy"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_candidate_seconds = Histogram(
            "cos_time_to_first_candidate_seconds",
            "From the request's arrival to the first candidate step, queue included.",
            ["strategy"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.candidates = Counter("cos_candidates_total", "Candidate steps written.", ["strategy"], registry=registry)
        self.tokens = Counter(
            "cos_policy_tokens_total",
            "Generated tokens: kept in the answer's chain, or one of the ways to end without it.",
            ["strategy", "kind"],
            registry=registry,
        )
        self.reads = Counter("cos_prm_reads_total", "Scores read from the PRM.", ["strategy"], registry=registry)
        self.unscored = Counter(
            "cos_unscored_total", "Candidates whose score was missing or not finite.", ["strategy"], registry=registry
        )
        self.scores = Histogram(
            "cos_prm_score", "PRM scores of candidates.", ["strategy"], buckets=_TENTHS, registry=registry
        )
        self.traces = Counter(
            "cos_traces_total",
            "Finished searches written to the trace folder, or not: stored, failed.",
            ["status"],
            registry=registry,
        )
        self._in_progress = Gauge("cos_requests_in_progress", "Searches under way.", registry=registry)
        self._queued = Gauge("cos_requests_queued", "Searches waiting for a place.", registry=registry)
        self._build = Info("cos_build", "Version and models.", registry=registry)

    def watch(self, admission: Admission) -> None:
        """Shows an admission's counts as gauges."""
        self._in_progress.set_function(lambda: admission.running)
        self._queued.set_function(lambda: admission.queued)

    def describe(self, *, version: str, policy: str, prm: str) -> None:
        """Sets what ``cos_build_info`` tells."""
        self._build.info({"version": version, "policy": policy, "prm": prm})

    @contextmanager
    def search(self, strategy: str, *, with_prm: bool) -> Generator["SearchMeter"]:
        """Counts one search; what it wrote is counted even where it was cancelled."""
        meter = SearchMeter(self, strategy, with_prm=with_prm)
        try:
            yield meter
        finally:
            meter.close()


class SearchMeter:
    """The metrics of one search, read off its events."""

    def __init__(self, metrics: Metrics, strategy: str, *, with_prm: bool) -> None:
        self._metrics = metrics
        self._strategy = strategy
        self._with_prm = with_prm
        self._arrived = time.perf_counter()
        self._written = 0
        self._candidates = 0
        self._reads = 0
        self._usage: Usage | None = None

    def see(self, event: Event) -> None:
        """Counts one event."""
        match event:
            case Written(candidate):
                if not self._candidates:
                    waited = time.perf_counter() - self._arrived
                    self._metrics.first_candidate_seconds.labels(self._strategy).observe(waited)
                self._candidates += 1
                self._written += len(candidate.token_ids)
            case Scored(_, score):
                self._score(score)
            case Answered(result):
                self._usage = result.usage
            case _:
                pass

    def _score(self, score: float | None) -> None:
        if score is None:
            self._metrics.unscored.labels(self._strategy).inc()
        elif self._with_prm:
            self._reads += 1
            self._metrics.scores.labels(self._strategy).observe(score)

    def close(self) -> None:
        """Adds up what is known at the end only."""
        self._metrics.candidates.labels(self._strategy).inc(self._candidates)
        # A search that was broken off kept nothing.
        usage = self._usage or Usage(tokens_generated=self._written, prm_reads=self._reads)
        self._metrics.reads.labels(self._strategy).inc(usage.prm_reads)
        for fate in FATES:
            self._metrics.tokens.labels(self._strategy, fate).inc(getattr(usage, f"tokens_{fate}"))


class _Families(Collector):
    """Several registries as one: a family that more than one of them has appears once, with the samples of all."""

    def __init__(self, registries: Sequence[CollectorRegistry]) -> None:
        self._registries = registries

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for registry in self._registries:
            for family in registry.collect():
                known = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type, family.unit)
                )
                # When a series was created is noise here: every one of them is as old as the process.
                known.samples.extend(sample for sample in family.samples if not sample.name.endswith("_created"))
        return families.values()


def exposition(registries: Sequence[CollectorRegistry]) -> bytes:
    """All registries in Prometheus' text format."""
    merged = CollectorRegistry(auto_describe=False)
    merged.register(_Families(registries))
    return generate_latest(merged)
