"""What searching costs: tokens that both engines really computed, against what the chains need.

Every step of every chain is read while the chain grows, so a chain is sent once for each of its steps; the prefix cache
has to spare the engine all but the newest step. Three measures of need, in tokens of the PRM's prompts:

- needed: each whole chain once, by itself: prompt + chain + one tag a segment.
- shared: each question's prompt once, and each distinct segment of its tree once.
- rescan: each prefix of each chain from its start, as a scorer without a cache reads.

The policy writes every step in a request of its own, whose prefix is in its cache but for a block's remainder. What it
computes is what it writes, what was aborted included, and the prompt tokens that its cache did not hold; what it needs
is each question's prompt once, and what it writes.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from prometheus_client import CollectorRegistry

from cos.benchmarks.grid import Field
from cos.benchmarks.setting import Setting
from cos.benchmarks.wrapped import Wrapped, WrappedSession
from cos.checkpoints import LedgerProblem
from cos.evaluation.in_process import Running
from cos.evaluation.provenance import Facts
from cos.search.errors import InputError
from cos.search.ports import Draw, Drawn, Policy, PolicySession, Reading, Scorer, ScorerSession
from cos.search.types import Chain, Question

SETTLE_S = 0.5
"""vLLM counts a request just after it has returned it."""


Content = tuple[int, ...]
"""The policy's tokens from the question on. Chains that say the same are read once, whatever their places."""


@dataclass(slots=True)
class ReadLog:
    """The PRM reads of one search."""

    question: Question
    lengths: dict[Content, int] = field(default_factory=dict[Content, int])
    """Tokens of the whole PRM prompt that ended with a content."""
    parents: dict[Content, Content] = field(default_factory=dict[Content, Content])
    """What a content was without its last segment."""
    reads: int = 0
    sent: int = 0
    """Prompt tokens of all reads."""
    cached: int = 0

    def note(self, chain: Chain, reading: Reading) -> None:
        """Adds one read."""
        self.lengths[chain.token_ids] = reading.prompt_tokens
        self.reads += 1
        self.sent += reading.prompt_tokens
        self.cached += reading.cached_tokens
        content: Content = ()
        for candidate in chain.candidates:
            longer = (*content, *candidate.token_ids)
            self.parents[longer] = content
            content = longer

    @property
    def leaves(self) -> list[Content]:
        """What was read and not continued."""
        inner = set(self.parents.values())
        return [content for content in self.lengths if content not in inner]

    def added(self, content: Content, prompt_tokens: int) -> int:
        """Tokens by which a prompt is longer than that of the nearest prefix that was read."""
        before = self.parents[content]
        while before and before not in self.lengths:
            before = self.parents[before]
        return self.lengths[content] - (self.lengths[before] if before else prompt_tokens)


class Meter:
    """A scorer that writes down what it is asked; see `cos.search.ports.Scorer`."""

    def __init__(self, scorer: Scorer) -> None:
        self.logs: list[ReadLog] = []
        self._scorer = scorer

    async def open(self, question: Question) -> ScorerSession:
        """A session of the scorer, with a log of its own."""
        log = ReadLog(question)
        self.logs.append(log)
        return _MeteredSession(await self._scorer.open(question), log)


class _MeteredSession:
    def __init__(self, session: ScorerSession, log: ReadLog) -> None:
        self._session = session
        self._log = log

    async def score(self, chain: Chain) -> Reading:
        reading = await self._session.score(chain)
        self._log.note(chain, reading)
        return reading


class PolicyMeter(Wrapped):
    """A policy that adds up what it replies; see `cos.search.ports.Policy`."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.counters = Counters(0, 0)
        self.requests = 0
        self._policy = policy

    async def open(self, question: Question) -> PolicySession:
        """A session of the policy."""
        return _MeteredDraws(await self._policy.open(question), self)


class _MeteredDraws(WrappedSession):
    def __init__(self, session: PolicySession, meter: PolicyMeter) -> None:
        super().__init__(session)
        self._session = session
        self._meter = meter

    async def draw(self, continuation: Sequence[int], draw: Draw) -> Drawn:
        drawn = await self._session.draw(continuation, draw)
        self._meter.requests += 1
        self._meter.counters += Counters(drawn.prompt_tokens, drawn.cached_tokens, len(drawn.token_ids))
        return drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What the reads of some searches need, in tokens; see the module."""

    chains: int = 0
    reads: int = 0
    needed: int = 0
    shared: int = 0
    rescan: int = 0

    def __add__(self, other: "Need") -> "Need":
        return Need(
            chains=self.chains + other.chains,
            reads=self.reads + other.reads,
            needed=self.needed + other.needed,
            shared=self.shared + other.shared,
            rescan=self.rescan + other.rescan,
        )


def need_of(log: ReadLog, prompt_tokens: int) -> Need:
    """The need of one search whose question takes ``prompt_tokens`` in the PRM."""
    leaves = log.leaves
    return Need(
        chains=len(leaves),
        reads=log.reads,
        needed=sum(log.lengths[leaf] for leaf in leaves),
        shared=prompt_tokens + sum(log.added(content, prompt_tokens) for content in log.lengths) if log.lengths else 0,
        rescan=log.sent,
    )


@dataclass(frozen=True, slots=True)
class Counters:
    """An engine's tokens so far."""

    prompt: float
    cached: float
    written: float = 0

    def __add__(self, other: "Counters") -> "Counters":
        return Counters(self.prompt + other.prompt, self.cached + other.cached, self.written + other.written)

    def __sub__(self, other: "Counters") -> "Counters":
        return Counters(self.prompt - other.prompt, self.cached - other.cached, self.written - other.written)

    @property
    def computed(self) -> float:
        """Of its prompts."""
        return self.prompt - self.cached


def read_counters(registry: CollectorRegistry) -> Counters | None:
    """vLLM's own count; None for an engine that keeps none."""
    totals: dict[str, float] = {}
    for metric in registry.collect():
        for sample in metric.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    if "vllm:prompt_tokens_total" not in totals:
        return None
    names = ("vllm:prompt_tokens_total", "vllm:prompt_tokens_cached_total", "vllm:generation_tokens_total")
    return Counters(*(totals.get(name, 0.0) for name in names))


async def measure(
    running: Running, problems: Sequence[LedgerProblem], setting: Setting, seed: int, concurrency: int
) -> Facts:
    """Searches the problems and bills both engines. Errors: InputError without a PRM or PRM reads."""
    engine, scorer, policy = running.engines.prm, running.pair.scorer, running.engines.policy
    if engine is None or scorer is None:
        raise InputError("there is no PRM to measure; give --prm", "prm")
    meter, writing = Meter(scorer), PolicyMeter(running.pair.policy)
    pair = replace(running.pair, scorer=meter, policy=writing)
    metered = Field(pair=pair, problems=problems, seed=seed, concurrency=concurrency)
    before, written = read_counters(engine.registry), read_counters(policy.registry)
    outcome = await metered.run(setting)
    if outcome.prm_reads == 0:
        raise InputError(f"strategy {setting.strategy!r} made no PRM reads; choose one that scores", "strategy")
    await asyncio.sleep(SETTLE_S if before else 0.0)
    after = read_counters(engine.registry)
    by_policy = since(written, read_counters(policy.registry)) or writing.counters
    need, prompts = Need(), 0
    for log in meter.logs:
        need += need_of(log, (await engine.open(log.question)).prompt_tokens)
        prompts += (await policy.open(log.question)).prompt_tokens
    replied = Counters(need.rescan, sum(log.cached for log in meter.logs))
    counted = since(before, after) or replied
    return {
        **setting.facts(),
        "problems": len(problems),
        "seed": seed,
        "seconds": round(outcome.seconds, 3),
        "chains": need.chains,
        "prm_reads": need.reads,
        "counted_by": "vllm" if before and after else "replies",
        "prompt_tokens": int(counted.prompt),
        "cached_tokens": int(counted.cached),
        "computed_tokens": int(counted.computed),
        "computed_tokens_by_replies": int(replied.computed),
        "needed_tokens": need.needed,
        "shared_tokens": need.shared,
        "rescan_tokens": need.rescan,
        "computed_per_chain": counted.computed / need.chains,
        "needed_per_chain": need.needed / need.chains,
        "computed_over_needed": counted.computed / need.needed,
        "computed_over_shared": counted.computed / need.shared,
        "naive_over_needed": need.rescan / need.needed,
        "policy_written_tokens": int(by_policy.written),
        "policy_prompt_computed_tokens": int(by_policy.computed),
        "policy_requests": writing.requests,
        "policy_recomputed_per_request": (by_policy.computed - prompts) / writing.requests,
        "policy_computed_over_needed": (by_policy.computed + by_policy.written) / (prompts + by_policy.written),
    }


def since(before: Counters | None, after: Counters | None) -> Counters | None:
    """What an engine counted in between; None for one that does not count."""
    return after - before if before and after else None
