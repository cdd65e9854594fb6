"""Where the time of a search goes: stages that add up to its wall time, and what a listener hears."""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import astuple, dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cos.engines.scripted import Script, ScriptedEngine
from cos.prm.matching import match
from cos.search.budget import Limits
from cos.search.errors import EngineDead, EngineError, InputError, SearchFailed
from cos.search.ports import Pair
from cos.search.prompt import Prompt
from cos.search.result import Result
from cos.search.run import run
from cos.search.spec import SearchSpec
from cos.search.stopwatch import Interval, Stopwatch
from cos.search.strategies import menu
from cos.search.terms import Sampling
from cos.search.types import Question, Stages, Timings


@dataclass(frozen=True)
class Trouble:
    """Latencies, and requests that fail."""

    seed: int
    share: float = 0.0
    longest_s: float = 0.002

    def delay(self, kind: str, number: int) -> float:
        return random.Random(f"{self.seed} {kind} {number} late").random() * self.longest_s

    def fault(self, kind: str, number: int) -> Exception | None:
        failed = random.Random(f"{self.seed} {kind} {number}").random() < self.share
        return EngineError("failed") if failed else None


def engine(seed: int, share: float = 0.0, longest_s: float = 0.002) -> ScriptedEngine:
    trouble = Trouble(seed, share, longest_s)
    return ScriptedEngine(Script(delay=trouble.delay, fault=trouble.fault))


async def timed(
    watch: Stopwatch | None,
    strategy: str,
    policy: ScriptedEngine,
    prm: ScriptedEngine,
    n: int = 3,
    limits: Limits | None = None,
) -> Result | None:
    """The result of a search with this stopwatch; None where it had none."""
    models = match(policy, prm)
    params = {"n": n} if "n" in menu()[strategy].params.model_fields else {}
    spec = SearchSpec(strategy, params, sampling=Sampling(seed=n), limits=limits or Limits())
    searching = run(Question("How much?"), spec, models, stopwatch=watch)
    result: Result | None = None
    try:
        async with aclosing(searching) as events:
            async for event in events:
                result = getattr(event, "result", None)
    except (EngineError, SearchFailed):
        return None
    return result


def adds_up(timings: Timings) -> bool:
    """Whether the stages are all there is, as far as floats can tell."""
    parts = astuple(timings.stages)
    return all(part >= 0 for part in parts) and sum(parts) == pytest.approx(timings.total_s, rel=1e-6)


@given(
    strategy=st.sampled_from(sorted(menu())),
    n=st.integers(1, 5),
    seed=st.integers(0, 999),
    share=st.sampled_from([0.0, 0.1]),
    limits=st.builds(Limits, tokens=st.none() | st.integers(0, 1_000), live_sequences=st.integers(1, 6)),
    patience_s=st.none() | st.floats(0.0, 0.02),
)
@settings(max_examples=40)
async def test_the_stages_of_any_search_add_up_to_its_wall_time(
    strategy: str, n: int, seed: int, share: float, limits: Limits, patience_s: float | None
) -> None:
    before = time.perf_counter()
    watch, heard = timekeeper()
    policy, prm = engine(seed, share), engine(seed + 1, share)
    searching = timed(watch, strategy, policy, prm, n, limits)
    result: Result | None = None
    try:
        async with asyncio.timeout(patience_s):
            result = await searching
    except TimeoutError:
        pass
    timings = watch.read(None)
    assert adds_up(timings)
    assert timings.total_s <= time.perf_counter() - before
    if result is not None:
        assert adds_up(result.timings)
    assert timings.stages.generate_s <= waited_for(heard, watch.started) + 1e-6


def timekeeper() -> tuple[Stopwatch, list[Interval]]:
    """A stopwatch and what it tells."""
    heard: list[Interval] = []
    return Stopwatch(heard.append), heard


def waited_for(heard: Sequence[Interval], started: float) -> float:
    """Seconds in which at least one draw was under way, by the intervals that were told."""
    drawn = sorted((piece.began, piece.ended) for piece in heard if piece.kind == "draw")
    covered, until = 0.0, started
    for began, ended in drawn:
        covered += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return covered


async def test_a_search_with_a_slow_scorer_spends_its_time_on_scores() -> None:
    watch = Stopwatch()
    slow = ScriptedEngine(Script(seconds_per_read=0.03))
    result = await timed(watch, "greedy_prm", ScriptedEngine(), slow)
    assert result is not None
    stages = result.timings.stages
    assert stages.score_s > max(stages.generate_s, stages.open_s, stages.vote_s, stages.select_s)


async def test_a_search_with_a_slow_policy_spends_its_time_on_candidates() -> None:
    result = await timed(Stopwatch(), "greedy_prm", ScriptedEngine(Script(seconds_per_token=0.0005)), ScriptedEngine())
    assert result is not None
    stages = result.timings.stages
    assert stages.generate_s > max(stages.score_s, stages.open_s, stages.vote_s, stages.select_s)


async def test_reads_beside_draws_count_as_generating() -> None:
    watch = Stopwatch()
    with watch.during("draw"):
        with watch.during("read"):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.001)
    with watch.during("read"):
        await asyncio.sleep(0.01)
    stages = watch.stages()
    assert stages.generate_s >= 0.011
    assert stages.score_s >= 0.01


async def test_work_that_overlaps_is_counted_once() -> None:
    watch = Stopwatch()

    async def draw(seconds: float) -> None:
        with watch.during("draw", (0,)):
            await asyncio.sleep(seconds)

    await asyncio.gather(draw(0.01), draw(0.02), draw(0.005))
    assert adds_up(watch.read(None))
    assert 0.02 <= watch.stages().generate_s <= watch.read(None).total_s


async def test_a_vote_that_takes_algebra_counts_as_vote() -> None:
    class Slow:
        async def agree(self, pairs: Sequence[Pair]) -> list[bool | None]:
            await asyncio.sleep(0.02)
            return [True] * len(pairs)

    def roots(prompt: Prompt, written: str, rng: random.Random) -> str:
        del prompt, written
        return f"Answer:\n<|answer_start|>{rng.choice(['sqrt(8)', '2*sqrt(2)'])}<|answer_end|>"

    models = match(ScriptedEngine(Script(writer=roots)), None)
    spec = SearchSpec("self_consistency", {"n": 8}, score="likelihood")
    asked = run(Question("?"), spec, models, Slow())
    async with aclosing(asked) as events:
        last = [event async for event in events][-1]
    assert last.result.timings.stages.vote_s >= 0.02  # pyright: ignore[reportAttributeAccessIssue]


async def test_before_its_engines_have_the_question_a_search_opens() -> None:
    watch = Stopwatch()
    await asyncio.sleep(0.005)
    stages = watch.stages()
    assert stages == Stages(open_s=stages.open_s)
    assert stages.open_s >= 0.005


async def test_a_listener_hears_of_every_draw_and_every_read_with_its_place() -> None:
    watch, heard = timekeeper()
    result = await timed(watch, "beam", engine(1), engine(2), 4)
    assert result is not None
    drawn = [piece.path for piece in heard if piece.kind == "draw" and piece.outcome == "done"]
    read = [piece.path for piece in heard if piece.kind == "read"]
    assert {candidate.path for candidate in result.tree} <= set(drawn)
    assert len(read) == result.usage.prm_reads
    assert set(read) <= set(drawn)
    assert heard[0].kind == "open"
    assert all(watch.started <= piece.began <= piece.ended for piece in heard)


async def test_a_listener_hears_how_work_ended() -> None:
    watch, heard = timekeeper()
    for error in (None, EngineError("failed"), EngineDead("gone"), InputError("no", "question")):
        try:
            with watch.during("read", (0,)):
                if error:
                    raise error
        except (EngineError, InputError):
            pass
    slow = ScriptedEngine(Script(delay=lambda kind, number: 60.0))
    task = asyncio.create_task(timed(watch, "best_of_n", slow, engine(2)))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [piece.outcome for piece in heard[:4]] == ["done", "failed", "failed", "failed"]
    assert {piece.outcome for piece in heard if piece.kind == "draw"} == {"aborted"}


@pytest.mark.parametrize("strategy", sorted(menu()))
async def test_a_listener_changes_no_tree(strategy: str) -> None:
    watch, heard = timekeeper()
    plain = await timed(None, strategy, ScriptedEngine(), ScriptedEngine())
    told = await timed(watch, strategy, ScriptedEngine(), ScriptedEngine())
    assert plain is not None
    assert told is not None
    assert (told.tree, told.chain, told.finish_reason) == (plain.tree, plain.chain, plain.finish_reason)
    assert heard


@given(
    strategy=st.sampled_from(sorted(menu())),
    n=st.integers(1, 5),
    seed=st.integers(0, 999),
    share=st.sampled_from([0.0, 0.1]),
    limits=st.builds(Limits, tokens=st.none() | st.integers(50, 1_500), live_sequences=st.integers(1, 6)),
)
@settings(max_examples=40)
async def test_every_draw_that_was_begun_is_a_candidate_aborted_failed_or_asked(
    strategy: str, n: int, seed: int, share: float, limits: Limits
) -> None:
    watch, heard = timekeeper()
    result = await timed(watch, strategy, engine(seed, share), engine(seed + 1, share), n, limits)
    drawn = [piece for piece in heard if piece.kind == "draw"]
    assert watch.failed("draw") == sum(piece.outcome == "failed" for piece in drawn)
    assert watch.aborted("draw") == sum(piece.outcome == "aborted" for piece in drawn)
    if result is None:
        return
    usage = result.usage
    begun = sum(piece.path is not None and piece.outcome != "failed" for piece in drawn)
    assert usage.candidates + usage.candidates_aborted == begun
    assert usage.candidates_duplicate <= usage.candidates - len(result.chain.candidates)
    assert (usage.candidates_duplicate == 0) == (usage.tokens_duplicate == 0)
    assert usage.requests_failed == watch.failed("draw") + watch.failed("read")
