"""What is begun ahead: sooner done, and never another result."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cos.engines.scripted import Script, ScriptedEngine
from cos.search.ahead import guessed
from cos.search.budget import Limits
from cos.search.grammars.cos import ANSWER_END, STEP_END, Step, answer_text, step_text
from cos.search.prompt import Prompt
from cos.search.result import Result
from cos.search.select import PROBABILITIES
from cos.search.terms import Sampling
from cos.search.types import Candidate, Chain, End, Piece

Find = Callable[..., Awaitable[Result]]

LOOKS_AHEAD = ("auto", "beam", "dvts", "greedy_prm", "rebase")
"""Strategies that begin what is likely wanted next, and drop some of it."""


@dataclass(frozen=True)
class Uneven:
    """Some requests take much longer than others."""

    seed: int

    def __call__(self, kind: str, number: int) -> float:
        slow = random.Random(f"{self.seed} {kind} {number}").random() < 0.25
        return 0.02 if slow and kind == "draw" else 0.0


def tree_of(result: Result) -> tuple[object, ...]:
    return result.chain, result.value, result.finish_reason, result.tree, result.warnings


@given(strategy=st.sampled_from(LOOKS_AHEAD), n=st.integers(2, 8), seed=st.integers(0, 10_000))
@settings(max_examples=40)
async def test_trees_are_the_same_with_it_and_without(find: Find, strategy: str, n: int, seed: int) -> None:
    plain = await find(strategy, {"n": n}, speculate=False)
    hurried = ScriptedEngine(Script(delay=Uneven(seed)))
    ahead = await find(strategy, {"n": n}, policy=hurried, speculate=True)
    assert tree_of(ahead) == tree_of(plain)
    assert ahead.usage.candidates == plain.usage.candidates
    assert ahead.usage.prm_reads == plain.usage.prm_reads
    assert ahead.usage.tokens_generated - ahead.usage.tokens_aborted == plain.usage.tokens_generated
    assert hurried.in_flight == 0


def straggler() -> ScriptedEngine:
    """The last candidate of the first level takes long."""
    return ScriptedEngine(Script(delay=lambda kind, number: 0.1 if kind == "draw" and number == 3 else 0.0))


async def test_children_of_likely_survivors_begin_while_a_straggler_runs(find: Find) -> None:
    policy = straggler()
    ahead = await find("greedy_prm", policy=policy)
    assert policy.most_in_flight > 4
    assert ahead.usage.tokens_generated > sum(candidate.tokens for candidate in ahead.tree)


class Witness:
    """A pair whose candidates all say the same. It notes how many requests of the policy are under way as one more
    begins, until the first answer is read (``seen``), and as a read ends (``unread``)."""

    def __init__(self, score: float, script: Script) -> None:
        self.policy = ScriptedEngine(replace(script, writer=self.write))
        self.prm = ScriptedEngine(Script(judge=self.judge, seconds_per_read=0.005))
        self.seen: list[int] = []
        self.unread: list[int] = []
        self._score = score
        self._notes = True

    def write(self, prompt: Prompt, written: str, rng: random.Random) -> str:
        del prompt, rng
        if self._notes:
            self.seen.append(self.policy.in_flight)
        done = written.count(STEP_END)
        first = not written
        if done == 4:
            return answer_text("7", first=first)
        return step_text(Step(f"Step {done}", "I look.", "Fine"), first=first)

    def judge(self, prompt: Prompt, written: str) -> float:
        del prompt
        self._notes = self._notes and ANSWER_END not in written
        self.unread.append(self.policy.in_flight)
        return self._score


STEADY = Script(seconds_per_token=0.001)
"""Some 40 ms a step, many times what a read takes."""


async def test_children_begin_while_scores_are_not_there_yet(find: Find) -> None:
    late, early = Witness(0.9, STEADY), Witness(0.9, STEADY)
    waiting = await find("greedy_prm", {"n": 4}, policy=late.policy, prm=late.prm, speculate=False)
    found = await find("greedy_prm", {"n": 4}, policy=early.policy, prm=early.prm)
    assert tree_of(found) == tree_of(waiting)
    assert found.usage.tokens_aborted == 0
    assert max(late.unread) == 0
    assert max(early.unread) == 4


async def test_auto_follows_a_candidate_before_it_is_believed(find: Find) -> None:
    late, early = Witness(0.95, STEADY), Witness(0.95, STEADY)
    waiting = await find("auto", {"n": 2}, policy=late.policy, prm=late.prm, speculate=False)
    found = await find("auto", {"n": 2}, policy=early.policy, prm=early.prm)
    assert tree_of(found) == tree_of(waiting)
    assert found.usage.tokens_aborted == 0
    assert max(late.unread) == 0
    assert max(early.unread) == 1


async def test_auto_begins_a_steps_next_round_beside_its_first_candidate(find: Find) -> None:
    late, early = Witness(0.3, STEADY), Witness(0.3, STEADY)
    waiting = await find("auto", {"n": 8}, policy=late.policy, prm=late.prm, speculate=False)
    found = await find("auto", {"n": 8}, policy=early.policy, prm=early.prm)
    assert tree_of(found) == tree_of(waiting)
    assert found.usage.candidates_begun_ahead >= found.usage.candidates / 2


async def test_auto_drops_what_follows_on_a_candidate_it_does_not_believe(find: Find) -> None:
    witness = Witness(0.3, STEADY)
    result = await find("auto", {"n": 4}, policy=witness.policy, prm=witness.prm)
    assert result.usage.requests_aborted > 0
    assert result.finish_reason == "answer"


def chain(index: int, token: int, score: float | None = None, end: End = "step") -> Chain:
    return Chain((Candidate(path=(index,), written=(token,), tokens=1, piece=Piece("step", ""), end=end, score=score),))


def test_a_score_that_is_not_there_is_guessed_by_what_says_the_same() -> None:
    level = [chain(3, 7), chain(0, 7), chain(1, 8), chain(2, 9, 0.6), chain(4, 9), chain(5, 7, end="broken")]
    scores = [one.candidates[-1].score for one in guessed(level, PROBABILITIES)]
    assert scores == [2 / 6 + 1 / 6, 1 / 6, 0.6, 2 / 6 + 1 / 6, 0.6, None]


@pytest.mark.parametrize(
    "limits", [Limits(tokens=65_536), Limits(prm_reads=5_000), Limits(tokens=65_536, prm_reads=90)]
)
async def test_a_limit_lets_a_search_begin_ahead(find: Find, limits: Limits) -> None:
    policy = straggler()
    result = await find("greedy_prm", policy=policy, limits=limits)
    assert policy.most_in_flight > 4
    assert result.usage.candidates_begun_ahead > 0


@given(
    strategy=st.sampled_from(LOOKS_AHEAD),
    n=st.integers(2, 8),
    seed=st.integers(0, 10_000),
    tokens=st.integers(100, 4_000),
    step_tokens=st.integers(40, 120),
    reads=st.none() | st.integers(1, 60),
)
@settings(max_examples=80)
async def test_limits_are_kept_and_trees_are_the_same_with_it_and_without(
    find: Find, strategy: str, n: int, seed: int, tokens: int, step_tokens: int, reads: int | None
) -> None:
    limits, sampling = Limits(tokens=tokens, prm_reads=reads), Sampling(step_tokens=step_tokens)
    plain = await find(strategy, {"n": n}, limits=limits, sampling=sampling, speculate=False)
    hurried = ScriptedEngine(Script(delay=Uneven(seed)))
    ahead = await find(strategy, {"n": n}, policy=hurried, limits=limits, sampling=sampling, speculate=True)
    assert tree_of(ahead) == tree_of(plain)
    assert ahead.usage.tokens_generated <= tokens
    assert reads is None or ahead.usage.prm_reads <= reads
    assert hurried.in_flight == 0


async def test_what_is_begun_ahead_counts_as_a_live_sequence(find: Find) -> None:
    policy = straggler()
    await find("greedy_prm", policy=policy, limits=Limits(live_sequences=4))
    assert policy.most_in_flight == 4


async def test_nothing_is_begun_ahead_of_a_busy_engine(find: Find) -> None:
    policy = ScriptedEngine(Script(delay=lambda kind, number: 0.1 if number == 3 else 0.0, sequences=0))
    result = await find("greedy_prm", policy=policy)
    assert policy.most_in_flight <= 4
    assert result.usage.tokens_aborted == 0


async def test_what_was_begun_in_vain_is_aborted_and_counted(find: Find) -> None:
    """The straggler is the best by far, so that all that was begun before it is in vain."""
    policy = ScriptedEngine(
        Script(delay=lambda kind, number: 0.0 if kind == "read" or number < 3 else 0.1 if number == 3 else 0.3)
    )
    prm = ScriptedEngine(Script(judge=lambda _, written: 0.9 if written.count("step_end") > 1 else 0.5))
    result = await find("beam", {"n": 4, "beam_width": 4}, policy=policy, prm=prm)
    usage = result.usage
    assert result.finish_reason == "answer"
    assert usage.tokens_generated == (
        usage.tokens_kept + usage.tokens_duplicate + usage.tokens_aborted + usage.tokens_discarded
    )
    assert policy.in_flight == 0


async def test_time_that_runs_out_leaves_nothing_running_ahead(find: Find) -> None:
    policy = ScriptedEngine(Script(delay=lambda kind, number: 0.0 if kind == "read" or number < 3 else 30.0))
    result = await find("greedy_prm", policy=policy, limits=Limits(seconds=0.2))
    assert result.finish_reason == "seconds"
    assert policy.in_flight == 0
