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

from cos.benchmarks.grid import Workload
from cos.benchmarks.setting import Setting
from cos.benchmarks.wrapped import Wrapped, WrappedRuntime, WrappedSession
from cos.checkpoints import LedgerProblem
from cos.engines.ports import HasMetrics, Runtime, Session
from cos.evaluation.in_process import OpenModels
from cos.evaluation.provenance import Facts
from cos.prm.matching import match
from cos.prm.verdicts import VerdictPrm
from cos.search.errors import InputError
from cos.search.models import Models
from cos.search.ports import Draw, Drawn, Policy, PolicySession, Reading, Scorer, ScorerSession
from cos.search.prompt import Prompt, question_prompt
from cos.search.scale import Scale
from cos.search.types import Chain, Prefix, Question

SETTLE_S = 0.5
"""vLLM counts a request just after it has returned it."""
NOTHING: Prefix = ()
"""What a chain is before its first step."""


@dataclass(slots=True)
class ReadLog:
    """The PRM reads of one search, by what the policy had written from the question on. Chains that say the same are
    read once, whatever their places."""

    question: Question
    lengths: dict[Prefix, int] = field(default_factory=dict[Prefix, int])
    """Tokens of the whole PRM prompt."""
    parents: dict[Prefix, Prefix] = field(default_factory=dict[Prefix, Prefix])
    """The same without its last step or answer."""
    reads: int = 0
    sent: int = 0
    """Prompt tokens of all reads."""
    cached: int = 0

    def note(self, chain: Chain, reading: Reading) -> None:
        """Adds one read."""
        self.lengths[chain.prefix] = reading.prompt_tokens
        self.reads += 1
        self.sent += reading.prompt_tokens
        self.cached += reading.cached_tokens
        grown = Chain()
        for candidate in chain.candidates:
            longer = grown.then(candidate)
            self.parents[longer.prefix] = grown.prefix
            grown = longer

    @property
    def leaves(self) -> list[Prefix]:
        """What was read and not continued."""
        inner = set(self.parents.values())
        return [prefix for prefix in self.lengths if prefix not in inner]

    def added(self, prefix: Prefix, prompt_tokens: int) -> int:
        """Tokens by which a prompt is longer than that of the nearest shorter one that was read."""
        before = self.parents[prefix]
        while before != NOTHING and before not in self.lengths:
            before = self.parents[before]
        return self.lengths[prefix] - (prompt_tokens if before == NOTHING else self.lengths[before])


class Meter:
    """A scorer that writes down what it is asked; see `cos.search.ports.Scorer`."""

    def __init__(self, scorer: Scorer) -> None:
        self.logs: list[ReadLog] = []
        self._scorer = scorer

    @property
    def scale(self) -> Scale:
        return self._scorer.scale

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

    async def open(self, prompt: Prompt) -> PolicySession:
        """A session of the policy."""
        return _MeteredDraws(await self._policy.open(prompt), self)


class _MeteredDraws(WrappedSession):
    def __init__(self, session: PolicySession, meter: PolicyMeter) -> None:
        super().__init__(session)
        self._session = session
        self._meter = meter

    async def draw(self, prefix: Prefix, draw: Draw) -> Drawn:
        drawn = await self._session.draw(prefix, draw)
        self._meter.requests += 1
        self._meter.counters += Counters(drawn.prompt_tokens, drawn.cached_tokens, drawn.tokens)
        return drawn


class _Opening(WrappedRuntime):
    """A PRM's runtime that tells how long the prompts are that a format opens; see `cos.prm.ports.Reader`."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.prompt_tokens = 0
        """Of all prompts that were opened."""

    async def open(self, prompt: Prompt) -> Session:
        session = await self._runtime.open(prompt)
        self.prompt_tokens += session.prompt_tokens
        return session


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Tokens of the prompts that one question takes."""

    policy: int
    prm: int


async def prompt_tokens(
    models: Models, prm: Runtime, prm_format: str, questions: Sequence[Question]
) -> list[PromptTokens]:
    """What each question takes before anything is written to it. ``prm``: the runtime of the models' PRM."""
    opening = _Opening(prm)
    scorer = match(models.policy, opening, grammar=models.grammar.name, prm_format=prm_format).scorer
    assert scorer is not None, "a PRM was given"
    found: list[PromptTokens] = []
    for question in questions:
        before = opening.prompt_tokens
        await scorer.open(question)
        prompt = question_prompt(question, instruction=models.grammar.instruction, suffix=models.question_suffix)
        asked = await models.policy.open(prompt)
        found.append(PromptTokens(asked.prompt_tokens, opening.prompt_tokens - before))
    return found


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
        shared=prompt_tokens + sum(log.added(prefix, prompt_tokens) for prefix in log.lengths) if log.lengths else 0,
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


def counters_of(runtime: Runtime) -> Counters | None:
    """An engine's own count; None for one that keeps none."""
    return read_counters(runtime.registry) if isinstance(runtime, HasMetrics) else None


def read_counters(registry: CollectorRegistry) -> Counters | None:
    """vLLM's own count; None in a registry that has none."""
    totals: dict[str, float] = {}
    for metric in registry.collect():
        for sample in metric.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    if "vllm:prompt_tokens_total" not in totals:
        return None
    names = ("vllm:prompt_tokens_total", "vllm:prompt_tokens_cached_total", "vllm:generation_tokens_total")
    return Counters(*(totals.get(name, 0.0) for name in names))


async def measure(
    opened: OpenModels, problems: Sequence[LedgerProblem], setting: Setting, seed: int, concurrency: int
) -> Facts:
    """Searches the problems and bills both engines. Errors: InputError without a PRM or PRM reads, or for a PRM that
    is not read at each step."""
    models, engine, policy = opened.models, opened.reader, opened.engines.policy
    if engine is None or models.scorer is None:
        raise InputError("there is no PRM to measure; give --prm", "prm")
    if isinstance(models.scorer, VerdictPrm) or models.scorer.scale.judges != "steps":
        raise InputError(
            f"PRM format {models.prm_format!r} is not read at each step, which is what is counted here; "
            "cos bench cost --formats counts every format",
            "prm_format",
        )
    meter, writing = Meter(models.scorer), PolicyMeter(models.policy)
    metered = Workload(
        models=replace(models, scorer=meter, policy=writing), problems=problems, seed=seed, concurrency=concurrency
    )
    # One engine in both roles counts both: what it replied tells them apart.
    is_one = engine is policy
    before, written = (None, None) if is_one else (counters_of(engine), counters_of(policy))
    outcome = await metered.run(setting)
    if outcome.prm_reads == 0:
        raise InputError(f"strategy {setting.strategy!r} made no PRM reads; choose one that scores", "strategy")
    await asyncio.sleep(SETTLE_S if before else 0.0)
    after = counters_of(engine) if before else None
    by_policy = since(written, counters_of(policy)) or writing.counters
    need, prompts = Need(), 0
    questions = [log.question for log in meter.logs]
    every = await prompt_tokens(models, engine, opened.prm.prm_format, questions)
    for log, asked in zip(meter.logs, every, strict=True):
        need += need_of(log, asked.prm)
        prompts += asked.policy
    replied = Counters(need.rescan, sum(log.cached for log in meter.logs))
    counted = since(before, after) or replied
    return {
        **setting.under(models).facts(),
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
