"""The metrics of one search, read off its events, its stopwatch and its result."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import fields

from cos.search.events import Answered, Event, Proposed, Scored
from cos.search.result import Result
from cos.search.scale import Scale
from cos.search.stopwatch import Stopwatch, Work
from cos.search.types import Stages, Usage
from cos.server.metrics import Account, Metrics
from cos.server.unmetered import Unmetered
from cos.server.watch import ENGINES

LIMITS = frozenset({"tokens", "prm_reads", "seconds", "max_steps", "truncated", "shutdown"})
"""Reasons to end that are limits; see `cos.search.types.FinishReason`."""
TOKEN_OUTCOMES = ("kept", "duplicate", "asked", "aborted", "discarded")
"""Outcomes of a generated token, as `cos.search.types.Usage` has it."""
STAGES = tuple(stage.name for stage in fields(Stages))
WORKS: tuple[Work, ...] = ("draw", "read")
"""What is asked of each of the engines."""


class NoMeter:
    """Counts nothing."""

    def admitted(self) -> None:
        """The search has its place."""

    def see(self, event: Event) -> None:
        """An event of the search."""

    def met(self, limit: str) -> None:
        """A limit that ended or narrowed the search."""


class SearchMeter(NoMeter):
    """Counts one search while it runs, and the rest when it is over."""

    def __init__(self, metrics: Metrics, account: Account, watch: Stopwatch, scale: Scale | None) -> None:
        self._metrics = metrics
        self._account = account
        self._strategy = account.strategy
        self._watch = watch
        self._scale = scale
        self._scores = metrics.scores.labels(self._strategy) if scale else None
        self._is_admitted = False
        self._candidates = 0
        self._written = 0
        self._reads = 0
        self._result: Result | None = None

    def admitted(self) -> None:
        # A search that never had a place leaves nothing: its request is counted elsewhere.
        self._is_admitted = True
        self._metrics.queue_seconds.labels(self._strategy).observe(self._watch.stages().queue_s)

    def see(self, event: Event) -> None:
        match event:
            case Proposed(candidate):
                if not self._candidates:
                    self._metrics.first_step_seconds.labels(self._strategy).observe(self._waited())
                self._candidates += 1
                self._written += candidate.tokens
            case Scored(_, score):
                if score is None:
                    self._metrics.unscored.labels(self._strategy).inc()
                elif self._scale is not None and self._scores is not None:
                    self._reads += 1
                    share = self._scale.portion(score)
                    if share is not None:
                        self._scores.observe(share)
            case Answered(result):
                self._answered(result)
            case _:
                pass

    def met(self, limit: str) -> None:
        if limit in LIMITS:
            self._metrics.limits.labels(self._strategy, limit).inc()

    def close(self) -> None:
        """Adds up what is known at the end only."""
        if not self._is_admitted:
            return
        metrics, strategy, watch = self._metrics, self._strategy, self._watch
        stages = watch.stages() if self._result is None else self._result.timings.stages
        for name in STAGES:
            metrics.stage_seconds.labels(strategy, name.removesuffix("_s")).observe(getattr(stages, name))
        for engine, work in zip(ENGINES, WORKS, strict=True):
            if failures := watch.failed(work):
                metrics.engine_failures.labels(engine).inc(failures)
        kept = 0 if self._result is None else len(self._result.chain.candidates)
        usage = self._spent() if self._result is None else self._result.usage
        candidates = {
            "kept": kept,
            "duplicate": usage.candidates_duplicate,
            "pruned": usage.candidates - kept - usage.candidates_duplicate,
            "aborted": usage.candidates_aborted,
        }
        for outcome, number in candidates.items():
            metrics.candidates.labels(strategy, outcome).inc(number)
        for outcome, number in (("used", usage.candidates_begun_ahead), ("dropped", usage.candidates_begun_in_vain)):
            metrics.begun_ahead.labels(strategy, outcome).inc(number)
        for outcome in TOKEN_OUTCOMES:
            metrics.tokens.labels(strategy, outcome).inc(getattr(usage, f"tokens_{outcome}"))
        for engine, prompt, cached in (
            ("policy", usage.policy_prompt_tokens, usage.policy_cached_tokens),
            ("prm", usage.prm_prompt_tokens, usage.prm_cached_tokens),
        ):
            metrics.prompt_tokens.labels(engine, "cached").inc(cached)
            metrics.prompt_tokens.labels(engine, "computed").inc(prompt - cached)
        metrics.reads.labels(strategy).inc(usage.prm_reads)
        metrics.prm_tokens.labels(strategy).inc(usage.prm_tokens_generated)
        metrics.unscored.labels(strategy)
        for limit in LIMITS:
            metrics.limits.labels(strategy, limit)

    def _spent(self) -> Usage:
        """What is known of a search that was broken off: it kept nothing."""
        return Usage(
            tokens_generated=self._written,
            tokens_discarded=self._written,
            prm_reads=self._reads,
            candidates=self._candidates,
            candidates_aborted=self._watch.aborted("draw"),
        )

    def _answered(self, result: Result) -> None:
        metrics, strategy = self._metrics, self._strategy
        self._result = result
        metrics.depth.labels(strategy).observe(len(result.chain.candidates))
        if result.is_complete:
            metrics.answer_seconds.labels(strategy).observe(self._waited(), self._account.exemplar)
        self.met(result.finish_reason)

    def _waited(self) -> float:
        return time.perf_counter() - self._account.arrived


@contextmanager
def metered(
    metrics: Metrics | Unmetered, account: Account, watch: Stopwatch, scale: Scale | None
) -> Generator[NoMeter]:
    """Counts one search, also where it is cancelled. ``scale``: of the PRM's scores; None where its scores are not a
    PRM's."""
    if isinstance(metrics, Unmetered):
        yield NoMeter()
        return
    meter = SearchMeter(metrics, account, watch, scale)
    try:
        yield meter
    finally:
        meter.close()
