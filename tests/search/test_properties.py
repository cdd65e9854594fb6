"""Any strategy over any policy, any PRM, any faults and any limits: what must hold whatever happens."""

import hashlib
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from cos.engines.scripted import Script, ScriptedEngine
from cos.search.budget import Limits
from cos.search.errors import EngineDead, EngineError, SearchFailed
from cos.search.grammars.cos import LABEL_GOOD, STEP_END, STEP_TAG, Step, answer_text, step_text
from cos.search.prompt import Prompt
from cos.search.result import Result
from cos.search.select import rank
from cos.search.spec import SearchSpec
from cos.search.strategies import menu
from cos.search.terms import Sampling
from cos.search.types import UNREADABLE, Candidate, Chain, Path

Find = Callable[..., Awaitable[Result]]

HABITS = ("step", "answer", "long", "mumble", "nothing", "empty step", "repeat", "tag", "label")
SCORES = (0.0, 0.25, 0.5, 0.5, 1.0, math.nan, math.inf, -math.inf, -0.5, 1.5)
MAX_STEPS = 4


@dataclass(frozen=True)
class Author:
    """Writes in one of its habits, as the seed of the request has it."""

    habits: tuple[str, ...]

    def __call__(self, prompt: Prompt, written: str, rng: random.Random) -> str:
        del prompt
        first = not written
        match rng.choice(self.habits):
            case "answer":
                return answer_text(rng.choice(["1", "2", "(2)", "three"]), first=first)
            case "long":
                return step_text(Step("Long", "on and on " * 40, "Fine"), first=first)
            case "mumble":
                return "mumble"
            case "nothing":
                return ""
            case "empty step":
                return step_text(Step("", "", ""), first=first)
            case "repeat":
                return step_text(Step("Again", "The same.", "Fine"), first=first)
            case "tag":
                return step_text(Step("Sure", STEP_TAG, "Fine"), first=first)
            case "label":
                return answer_text(f"15{LABEL_GOOD}", first=first)
            case _:
                thought = "x" * rng.randint(1, 30)
                return step_text(Step("Think", thought, "Fine"), first=first)


@dataclass(frozen=True)
class Moods:
    """A judge whose score follows from the text alone."""

    seed: int

    def __call__(self, prompt: Prompt, written: str) -> float:
        del prompt
        digest = hashlib.blake2b(f"{self.seed} {written}".encode(), digest_size=2).digest()
        return SCORES[int.from_bytes(digest, "big") % len(SCORES)]


@dataclass(frozen=True)
class Trouble:
    """Fails one request in ten, and rarely for good."""

    seed: int

    def __call__(self, kind: str, number: int) -> Exception | None:
        luck = random.Random(f"{self.seed} {kind} {number}").random()
        if luck < 0.005:
            return EngineDead("gone")
        return EngineError("failed") if luck < 0.1 else None


@dataclass(frozen=True)
class Hurry:
    """Latencies short enough for many examples, in an order of their own."""

    seed: int

    def __call__(self, kind: str, number: int) -> float:
        return random.Random(f"{self.seed} {kind} {number}").choice([0.0, 0.0, 0.0005, 0.001])


def engines(habits: tuple[str, ...], seed: int, *, faults: bool) -> tuple[ScriptedEngine, ScriptedEngine]:
    fault = Trouble(seed) if faults else None
    return (
        ScriptedEngine(Script(writer=Author(habits), fault=fault, delay=Hurry(seed)), context_tokens=900),
        ScriptedEngine(Script(judge=Moods(seed), fault=fault, delay=Hurry(seed + 1)), context_tokens=700),
    )


STRATEGY = st.sampled_from(sorted(menu()))
HABIT = st.lists(st.sampled_from(HABITS), min_size=1, max_size=6).map(tuple)
LIMITS = st.builds(
    Limits,
    tokens=st.none() | st.integers(0, 2_000),
    prm_reads=st.none() | st.integers(0, 40),
    live_sequences=st.integers(1, 6),
)


def params(strategy: str, n: int) -> dict[str, int]:
    return {"n": n} if "n" in menu()[strategy].params.model_fields else {}


@given(
    strategy=STRATEGY, n=st.integers(1, 6), habits=HABIT, limits=LIMITS, seed=st.integers(0, 99), faults=st.booleans()
)
@settings(max_examples=150)
async def test_every_search_keeps_the_contract(
    find: Find, strategy: str, n: int, habits: tuple[str, ...], limits: Limits, seed: int, faults: bool
) -> None:
    policy, prm = engines(habits, seed, faults=faults)
    sampling = Sampling(seed=seed, step_tokens=200, max_steps=MAX_STEPS)
    try:
        result = await find(strategy, params(strategy, n), policy=policy, prm=prm, limits=limits, sampling=sampling)
    except EngineError as error:
        is_excused(error, faults=faults)
    except SearchFailed:
        assert limits.tokens == 0
    else:
        within_limits(result, limits)
        consistent(result, SearchSpec(strategy, params(strategy, n), sampling=sampling, limits=limits))
    assert policy.in_flight == prm.in_flight == 0
    assert policy.most_in_flight <= limits.live_sequences


def is_excused(error: EngineError, *, faults: bool) -> None:
    """Some moods are no number, and a search that hardly any score decided is the PRM's failure."""
    assert faults or "the PRM failed to score" in str(error)


def within_limits(result: Result, limits: Limits) -> None:
    usage = result.usage
    assert limits.tokens is None or usage.tokens_generated <= limits.tokens
    assert limits.prm_reads is None or usage.prm_reads <= limits.prm_reads
    assert max(len(candidate.path) for candidate in result.tree) <= MAX_STEPS + 1


def consistent(result: Result, spec: SearchSpec) -> None:
    usage, tree = result.usage, {candidate.path: candidate for candidate in result.tree}
    assert list(tree) == sorted(tree)
    assert usage.candidates == len(tree) == len(result.tree)
    written = sum(candidate.tokens for candidate in result.tree)
    assert usage.tokens_generated == written + usage.tokens_aborted + usage.tokens_asked
    assert usage.tokens_kept == result.chain.tokens
    beside = usage.tokens_duplicate + usage.tokens_asked + usage.tokens_aborted
    assert usage.tokens_generated == usage.tokens_kept + beside + usage.tokens_discarded
    for depth, candidate in enumerate(result.chain.candidates, start=1):
        assert candidate.path == result.chain.path[:depth]
        assert candidate == tree[candidate.path]
        assert candidate.is_last == (depth == len(result.chain.candidates)) or result.finish_reason != "answer"
    assert result.is_complete == (result.chain.answer is not None)
    assert result.finish_reason != "answer" or result.is_complete
    assert result.value is None or 0 <= result.value <= 1
    for candidate in result.tree:
        assert candidate.score is None or 0 <= candidate.score <= 1
        assert candidate.end not in UNREADABLE or candidate.score is None
    if result.finish_reason in ("tokens", "prm_reads") and result.chain.candidates[-1].end != "truncated":
        best = rank(whole_chains(tree), result.ruler)[0]
        assert best.is_answered == result.chain.is_answered
        assert best == result.chain or (best.is_answered and spec.strategy.name != "best_of_n")


def whole_chains(tree: dict[Path, Candidate]) -> list[Chain]:
    parents = {path[:-1] for path in tree}
    return [Chain(tuple(tree[leaf[: i + 1]] for i in range(len(leaf)))) for leaf in tree if leaf not in parents]


@given(
    strategy=STRATEGY, n=st.integers(1, 5), habits=HABIT, seeds=st.lists(st.integers(0, 999), min_size=2, max_size=3)
)
@settings(max_examples=60)
async def test_no_order_of_events_changes_a_search(
    find: Find, strategy: str, n: int, habits: tuple[str, ...], seeds: list[int]
) -> None:
    outcomes: list[tuple[object, ...]] = []
    for seed in seeds:
        policy = ScriptedEngine(Script(writer=Author(habits), delay=Hurry(seed)))
        prm = ScriptedEngine(Script(judge=Moods(7), delay=Hurry(seed + 1)))
        sampling = Sampling(max_steps=MAX_STEPS, step_tokens=200)
        try:
            result = await find(strategy, params(strategy, n), policy=policy, prm=prm, sampling=sampling)
        except EngineError as error:
            is_excused(error, faults=False)
            outcomes.append((str(error),))
        else:
            outcomes.append((result.chain, result.value, result.finish_reason, result.tree))
    assert all(outcome == outcomes[0] for outcome in outcomes)


BY_RANK = ("auto", "beam", "best_of_n", "dvts", "greedy_prm", "rebase")
"""Strategies that follow scores alone: neither votes nor chance, and no rollouts."""


def even(prompt: Prompt, written: str, rng: random.Random) -> str:
    """Steps and answers of equal length that differ."""
    del prompt
    first, number = not written, rng.randrange(100, 1000)
    if written.count(STEP_END) == 3:
        return answer_text(str(number), first=first)
    return step_text(Step(f"Step {number}", "I look.", "Fine"), first=first)


@given(strategy=st.sampled_from(BY_RANK), n=st.integers(1, 8), score=st.floats(0.05, 0.95), seed=st.integers(0, 99))
@settings(max_examples=60)
async def test_a_constant_score_chooses_nothing(find: Find, strategy: str, n: int, score: float, seed: int) -> None:
    """Chains of one length and one value are told apart by their places: the first one wins, whatever it says. It is a
    sample, and with auto the greedy one."""
    policy, prm = ScriptedEngine(Script(writer=even)), ScriptedEngine(Script(judge=lambda _, __: score))
    sampling = Sampling(seed=seed)
    first = ("greedy", {}) if strategy == "auto" else ("best_of_n", {"n": 1})
    single = await find(*first, policy=policy, prm=prm, sampling=sampling)
    found = await find(strategy, {"n": n}, policy=policy, prm=prm, sampling=sampling)
    assert found.chain == single.chain
