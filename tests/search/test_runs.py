"""Whole searches over scripted engines: the seed alone decides what comes out, and every score is used as it should."""

import asyncio
import copy
import math
import pickle
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.story import CHAIN_STEPS, sureness
from cos.prm.matching import match
from cos.search.errors import EngineError, InputError
from cos.search.events import Answered, Event, Opened, Proposed, Scored, Selected
from cos.search.grammars.cos import ANSWER_END
from cos.search.place import seed_of
from cos.search.prompt import Prompt
from cos.search.result import Result
from cos.search.run import run
from cos.search.spec import SearchSpec
from cos.search.strategies import menu
from cos.search.terms import Sampling
from cos.search.types import Candidate, Question
from tests.search.test_ahead import LOOKS_AHEAD

Find = Callable[..., Awaitable[Result]]

EVERY = sorted(menu())
SCORED = sorted(name for name, strategy in menu().items() if strategy.needs_scores)
UNREAD = ("greedy", "self_consistency", "self_critique")
"""Strategies that never look at a score."""
ONE_WIDE = sorted(
    name
    for name, strategy in menu().items()
    # The rollouts of lookahead take the first places; what auto draws first is no sample.
    if "n" in strategy.params.model_fields and name not in ("lookahead", "auto")
)


@dataclass(frozen=True)
class Jitter:
    """Latencies without rhyme, the same for the same seed."""

    seed: int

    def __call__(self, kind: str, number: int) -> float:
        return random.Random(f"{self.seed} {kind} {number}").random() * 0.004


def jittery(seed: int) -> ScriptedEngine:
    return ScriptedEngine(Script(delay=Jitter(seed)))


def told(result: Result) -> tuple[Any, ...]:
    """All of a result that must not depend on time: what was begun ahead in vain does."""
    usage = result.usage
    spent = (usage.tokens_generated - usage.tokens_aborted, usage.tokens_kept, usage.candidates, usage.prm_reads)
    return result.chain, result.value, result.finish_reason, result.tree, spent, usage.unscored, result.warnings


def distinct(result: Result) -> int:
    """How many chains of a tree say something of their own."""
    tree = {candidate.path: candidate for candidate in result.tree}
    return len({tuple(tree[path[: i + 1]].written for i in range(len(path))) for path in tree})


async def events_of(spec: SearchSpec, policy: ScriptedEngine, prm: ScriptedEngine | None) -> list[Event]:
    models = match(policy, prm)
    question = Question("How much is it?")
    async with aclosing(run(question, spec, models)) as events:
        return [event async for event in events]


@pytest.mark.parametrize("strategy", EVERY)
async def test_the_same_seed_gives_the_same_search(find: Find, strategy: str) -> None:
    assert told(await find(strategy)) == told(await find(strategy))


@pytest.mark.parametrize("strategy", [name for name in EVERY if name != "greedy"])
async def test_another_seed_gives_another_search(find: Find, strategy: str) -> None:
    first, second = [await find(strategy, sampling=Sampling(seed=seed)) for seed in (1, 2)]
    assert first.tree != second.tree


@pytest.mark.parametrize("strategy", EVERY)
async def test_the_order_in_which_requests_end_never_changes_the_result(find: Find, strategy: str) -> None:
    calm = await find(strategy)
    for seed in range(4):
        hurried = await find(strategy, policy=jittery(seed), prm=jittery(seed + 100))
        assert told(hurried) == told(calm)


async def test_searches_side_by_side_on_the_same_engines_end_as_they_do_alone(find: Find) -> None:
    policy, prm = jittery(1), jittery(2)
    wanted = [(name, Sampling(seed=seed)) for name in EVERY for seed in range(3)]
    together = await asyncio.gather(
        *(find(name, policy=policy, prm=prm, sampling=sampling) for name, sampling in wanted)
    )
    for (name, sampling), crowded in zip(wanted, together, strict=True):
        assert told(crowded) == told(await find(name, sampling=sampling))


@pytest.mark.parametrize("strategy", ONE_WIDE)
async def test_a_search_one_wide_is_a_single_sample(find: Find, strategy: str) -> None:
    single = await find("self_consistency", {"n": 1})
    assert (await find(strategy, {"n": 1})).chain == single.chain


async def test_auto_one_wide_is_greedy(find: Find) -> None:
    assert (await find("auto", {"n": 1})).chain == (await find("greedy")).chain


async def test_a_single_sample_at_temperature_zero_is_greedy(find: Find) -> None:
    cold = await find("best_of_n", {"n": 1}, sampling=Sampling(temperature=0.0))
    assert cold.chain == (await find("greedy")).chain


@pytest.mark.parametrize(("n", "temperature", "doubts"), [(8, 0.0, 1), (8, 0.1, 0), (1, 0.0, 0)])
async def test_a_search_without_chance_is_told_that_its_candidates_are_the_same(
    find: Find, n: int, temperature: float, doubts: int
) -> None:
    result = await find("beam", {"n": n}, sampling=Sampling(temperature=temperature))
    assert len(result.warnings) == doubts
    assert all("at temperature 0 all 8 candidates" in warning for warning in result.warnings)


@pytest.mark.parametrize("strategy", EVERY)
async def test_a_search_ends_with_an_answer_whose_chain_is_scored_throughout(find: Find, strategy: str) -> None:
    result = await find(strategy)
    assert result.finish_reason == "answer"
    assert result.is_complete
    assert all(candidate.score is not None for candidate in result.chain.candidates)
    assert result.value == pytest.approx(
        0.2 * sum(step.score or 0 for step in result.chain.steps) / len(result.chain.steps)
        + 0.8 * (result.chain.answer_score or 0)
    )


async def test_search_with_scores_finds_better_chains_than_sampling_does(find: Find) -> None:
    for strategy in SCORED:
        values = [(await find(strategy, {"n": 8}, sampling=Sampling(seed=seed))).value or 0 for seed in range(5)]
        single = [(await find(strategy, {"n": 1}, sampling=Sampling(seed=seed))).value or 0 for seed in range(5)]
        assert sum(values) > sum(single)


async def test_best_of_n_returns_the_best_of_its_chains(find: Find) -> None:
    result = await find("best_of_n", {"n": 8})
    ends = [candidate for candidate in result.tree if candidate.end == "answer"]
    assert len(ends) == 8
    assert result.chain.answer_score == max(candidate.score or 0 for candidate in ends)


async def test_step_search_follows_the_best_new_step_of_each_level(find: Find) -> None:
    result = await find("greedy_prm", {"n": 6})
    for depth, chosen in enumerate(result.chain.candidates, start=1):
        level = [candidate for candidate in result.tree if len(candidate.path) == depth]
        assert len(level) == 6
        assert chosen.score == max(candidate.score or 0 for candidate in level)


async def test_a_beam_keeps_its_width_and_grows_a_whole_level_from_it(find: Find) -> None:
    events = await events_of(SearchSpec("beam", {"n": 6, "beam_width": 3}), ScriptedEngine(), ScriptedEngine())
    selections = [event for event in events if isinstance(event, Selected)]
    assert [len(event.kept) for event in selections] == [3] * len(selections)
    assert [len(event.kept) + len(event.pruned) for event in selections] == [6] * len(selections)


@pytest.mark.parametrize("strategy", EVERY)
async def test_equal_scores_leave_the_choice_to_length_and_place_never_to_time(find: Find, strategy: str) -> None:
    results = [
        await find(strategy, policy=jittery(seed), prm=ScriptedEngine(Script(judge=lambda _, __: 0.5)))
        for seed in range(3)
    ]
    assert told(results[0]) == told(results[1]) == told(results[2])
    assert results[0].value == pytest.approx(0.5)
    if strategy in SCORED and strategy not in ("particle", "weighted_vote", "lookahead"):
        # All chains of the default writer are equally long, so the earliest place wins.
        assert set(results[0].chain.path) == {0}


@pytest.mark.parametrize("strategy", UNREAD)
async def test_an_answer_that_needs_no_score_is_given_when_all_are_nan_and_counts_them(
    find: Find, strategy: str
) -> None:
    result = await find(strategy, prm=ScriptedEngine(Script(judge=lambda _, __: math.nan)))
    assert result.finish_reason == "answer"
    assert result.value is None
    assert result.usage.prm_reads == len(result.chain.candidates)
    assert result.usage.unscored >= result.usage.prm_reads
    assert all(candidate.score is None for candidate in result.tree)


@pytest.mark.parametrize("strategy", SCORED)
async def test_a_nan_never_wins_against_a_score(find: Find, strategy: str) -> None:
    """Every other read is NaN, whatever its candidate is worth; the others stay as they are."""

    def nan_for_the_sure(prompt: Prompt, written: str) -> float:
        p = sureness(prompt, written)
        return math.nan if p > 0.6 else p

    result = await find(strategy, {"n": 8}, prm=ScriptedEngine(Script(judge=nan_for_the_sure)))
    assert result.usage.unscored > 0
    assert result.value is not None
    assert math.isfinite(result.value)


async def test_a_candidate_without_a_score_is_read_once_only(find: Find) -> None:
    read = list[str]()

    def judge(prompt: Prompt, written: str) -> float:
        read.append(written)
        return math.nan

    with pytest.raises(EngineError):
        await find("best_of_n", {"n": 1}, prm=ScriptedEngine(Script(judge=judge)))
    assert len(read) == len(set(read)) == CHAIN_STEPS + 1


@pytest.mark.parametrize("speculate", [False, True])
@pytest.mark.parametrize("strategy", EVERY)
async def test_the_ledger_balances(find: Find, strategy: str, speculate: bool) -> None:
    policy, prm = ScriptedEngine(), ScriptedEngine()
    result = await find(strategy, policy=policy, prm=prm, speculate=speculate)
    usage = result.usage
    beside = usage.tokens_aborted + usage.tokens_asked
    assert usage.tokens_generated == sum(candidate.tokens for candidate in result.tree) + beside
    assert usage.tokens_kept == result.chain.tokens
    assert usage.tokens_kept + usage.tokens_discarded + usage.tokens_duplicate + beside == usage.tokens_generated
    assert usage.candidates == len(result.tree) == len({candidate.path for candidate in result.tree})
    assert usage.policy_cached_tokens <= usage.policy_prompt_tokens
    assert usage.prm_cached_tokens <= usage.prm_prompt_tokens
    assert usage.prm_reads == (len(result.chain.candidates) if strategy in UNREAD else distinct(result))
    assert (usage.requests_failed, usage.unscored) == (0, 0)
    assert usage.requests_aborted == 0 or (speculate and strategy in LOOKS_AHEAD)
    assert policy.in_flight == prm.in_flight == 0


@pytest.mark.parametrize("strategy", EVERY)
async def test_likelihood_needs_no_prm(find: Find, strategy: str) -> None:
    result = await find(strategy, has_prm=False, score="likelihood")
    assert result.usage.prm_reads == 0
    assert result.finish_reason == "answer"
    assert result.value == pytest.approx(sum(c.logprob or math.nan for c in result.chain.candidates))
    for candidate in result.chain.candidates:
        assert candidate.score == pytest.approx((candidate.logprob or math.nan) / candidate.tokens)


async def test_likelihoods_of_long_texts_still_tell_chains_apart(find: Find) -> None:
    """All these chains have a likelihood next to 0, and one token of each between 0.82 and 0.91."""
    rebased = await find("rebase", {"n": 16, "balance": 0.02}, has_prm=False, score="likelihood")
    children = Counter(candidate.path[0] for candidate in rebased.tree if len(candidate.path) == 2)
    assert max(children.values()) >= 3
    searched = await find("mcts", {"n": 4, "iterations": 16, "exploration": 0.05}, has_prm=False, score="likelihood")
    below = Counter(candidate.path[0] for candidate in searched.tree if len(candidate.path) > 1)
    assert max(below.values()) > 2 * sorted([*below.values(), 0, 0, 0])[-2]
    assert 0.8 < (searched.ruler.confidence(searched.chain) or 0.0) < 0.92
    assert math.exp(searched.value or 0.0) < 1e-6


async def test_likelihood_reads_no_prm_that_happens_to_be_there(find: Find) -> None:
    prm = ScriptedEngine()
    result = await find("beam", prm=prm, score="likelihood")
    assert result.usage.prm_reads == prm.most_in_flight == 0


@pytest.mark.parametrize("strategy", SCORED)
async def test_a_strategy_that_ranks_by_scores_asks_for_a_prm_before_any_work(find: Find, strategy: str) -> None:
    policy = ScriptedEngine()
    with pytest.raises(InputError, match="there is no PRM; ask for score 'likelihood'") as error:
        await find(strategy, policy=policy, has_prm=False)
    assert error.value.param == "score"
    assert policy.most_in_flight == 0


@pytest.mark.parametrize("strategy", UNREAD)
async def test_explaining_scores_the_winner_and_nothing_else(find: Find, strategy: str) -> None:
    result = await find(strategy)
    assert result.usage.prm_reads == len(result.chain.candidates)
    silent = await find(strategy, explain=False)
    assert silent.usage.prm_reads == 0
    assert silent.chain.prefix == result.chain.prefix


async def test_scores_come_before_the_slowest_sibling_ends() -> None:
    policy = ScriptedEngine(Script(delay=lambda kind, number: 0.3 if number == 3 else 0.0))
    events = await events_of(SearchSpec("greedy_prm", {"n": 4}), policy, ScriptedEngine())
    slowest = next(i for i, e in enumerate(events) if isinstance(e, Proposed) and e.candidate.path == (3,))
    scored = [event.path for event in events[:slowest] if isinstance(event, Scored)]
    assert sorted(scored) == [(0,), (1,), (2,)]


async def test_a_chain_grows_on_while_its_steps_are_being_read() -> None:
    events = await events_of(
        SearchSpec("best_of_n", {"n": 1}), ScriptedEngine(), ScriptedEngine(Script(seconds_per_read=0.3))
    )
    kinds = [type(event) for event in events if isinstance(event, Proposed | Scored)]
    assert kinds == [Proposed] * 4 + [Scored] * 4


@pytest.mark.parametrize("strategy", EVERY)
async def test_events_tell_the_whole_search_in_order(strategy: str) -> None:
    params = {} if strategy == "greedy" else {"n": 3}
    events = await events_of(SearchSpec(strategy, params), jittery(1), jittery(2))

    assert isinstance(events[0], Opened)
    assert events[0].strategy == strategy
    assert isinstance(events[-1], Answered)
    assert sum(isinstance(event, Answered) for event in events) == 1
    written = [event.candidate for event in events if isinstance(event, Proposed)]
    scored = {event.path: event.score for event in events if isinstance(event, Scored)}
    result = events[-1].result
    assert without_scores(result.tree) == without_scores(sorted(written, key=lambda candidate: candidate.path))
    assert scored == {candidate.path: candidate.score for candidate in result.tree if candidate.score is not None}
    for path in scored:
        assert place(events, Proposed, path) < place(events, Scored, path)


def without_scores(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [replace(candidate, score=None) for candidate in candidates]


def place(events: list[Event], kind: type[Event], path: tuple[int, ...]) -> int:
    return next(
        index
        for index, event in enumerate(events)
        if isinstance(event, kind)
        and path == (event.candidate.path if isinstance(event, Proposed) else getattr(event, "path", None))
    )


def test_seeds_follow_from_the_place_in_the_tree() -> None:
    paths = [(i, *((0,) * depth)) for i in range(200) for depth in range(4)]
    seeds = {seed_of(0, path) for path in paths}
    assert len(seeds) == len(paths)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seed_of(1, (0,)) != seed_of(0, (0,))
    assert seed_of(0, (1, 2)) != seed_of(0, (12,))


def sent(result: Result) -> Result:
    return pickle.loads(pickle.dumps(result))


@pytest.mark.parametrize("again", [copy.deepcopy, sent])
async def test_a_result_can_be_copied_and_sent_to_another_process(
    find: Find, again: Callable[[Result], Result]
) -> None:
    result = await find("beam")
    assert result.chain.is_answered
    assert again(result) == result


async def test_timings_are_in_order(find: Find) -> None:
    timings = (await find("beam", policy=jittery(0))).timings
    assert timings.first_candidate_s is not None
    assert 0 <= timings.stages.open_s <= timings.first_candidate_s <= timings.total_s


@pytest.mark.parametrize("strategy", EVERY)
async def test_a_policy_that_answers_at_once_ends_every_search_at_once(find: Find, strategy: str) -> None:
    def blurt(prompt: Prompt, written: str, rng: random.Random) -> str:
        del prompt, written
        return f"Answer:\n<|answer_start|>{rng.randint(1, 3)}{ANSWER_END}"

    result = await find(strategy, policy=ScriptedEngine(Script(writer=blurt)))
    assert result.finish_reason == "answer"
    assert len(result.chain.candidates) == 1
    assert result.chain.steps == ()
