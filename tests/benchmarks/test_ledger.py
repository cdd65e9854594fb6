"""Evaluation on held-out problems, with scripted engines."""

import random
from dataclasses import replace

import pytest

from cos.benchmarks.grid import Workload, compare, grid_of, grid_table, sweep
from cos.benchmarks.setting import Setting, parse_baseline
from cos.checkpoints import LedgerProblem
from cos.engines.scripted import Script, ScriptedEngine
from cos.evaluation.accuracy import Outcome, choose, evaluate, is_right, root_seed
from cos.prm.matching import match
from cos.search.errors import EngineDead, EngineError, InputError
from cos.search.models import Models
from cos.search.spec import SearchSpec
from cos.search.strategies import menu


async def run(models: Models, problems: list[LedgerProblem], setting: Setting, concurrency: int = 8) -> Outcome:
    def spec_for(problem: LedgerProblem) -> SearchSpec:
        return setting.spec(root_seed(0, problem.id))

    return await evaluate(models, problems, spec_for, concurrency, "test")


async def test_searching_beats_one_chain_where_the_judge_knows(scripted: Models, problems: list[LedgerProblem]):
    one = await run(scripted, problems, Setting(strategy="best_of_n", n=1))
    eight = await run(scripted, problems, Setting(strategy="best_of_n", n=8))
    assert one.accuracy < 0.8 < eight.accuracy
    assert eight.policy_tokens > 7 * one.policy_tokens


async def test_reads_are_those_the_strategy_needs(scripted: Models, problems: list[LedgerProblem]):
    voted = await run(scripted, problems, Setting(strategy="self_consistency", n=4))
    picked = await run(scripted, problems, Setting(strategy="best_of_n", n=4))
    assert voted.prm_reads == 0
    assert picked.prm_reads == len(problems) * 4 * 4


async def test_outcomes_do_not_depend_on_how_many_run_at_once(problems: list[LedgerProblem]):
    one = await run(match(ScriptedEngine(), ScriptedEngine()), problems, Setting(strategy="beam", n=4), 1)
    many = await run(match(ScriptedEngine(), ScriptedEngine()), problems, Setting(strategy="beam", n=4), 16)
    assert one.records == many.records


async def test_no_more_searches_run_at_once_than_allowed(problems: list[LedgerProblem]):
    engine = ScriptedEngine(Script(seconds_per_token=1e-5))
    await run(match(engine, None), problems, Setting(strategy="greedy"), 3)
    assert engine.most_in_flight == 3


async def test_a_search_that_fails_counts_as_wrong(problems: list[LedgerProblem]):
    broken = match(ScriptedEngine(Script(fault=lambda kind, number: EngineError("no"))), None)
    outcome = await run(broken, problems, Setting(strategy="greedy"))
    assert outcome.accuracy == 0
    assert outcome.unanswered == len(problems)


async def test_a_dead_engine_ends_the_evaluation(problems: list[LedgerProblem]):
    dead = match(ScriptedEngine(Script(fault=lambda kind, number: EngineDead("gone"))), None)
    with pytest.raises(EngineDead):
        await run(dead, problems, Setting(strategy="greedy"))


async def test_an_unanswered_problem_is_wrong_even_where_nothing_is_the_answer(problems: list[LedgerProblem]):
    assert not is_right(None, replace(problems[0], answer="None"))
    assert is_right("1,234", replace(problems[0], answer="1234."))
    assert not is_right("(1,234)", replace(problems[0], answer="1234."))


def test_the_seed_picks_the_problems(problems: list[LedgerProblem]):
    assert choose(problems, 5, 3) == random.Random(3).sample(problems, 5)
    with pytest.raises(InputError, match="has 24"):
        choose(problems, 25, 0)


async def test_a_comparison_is_on_the_same_problems(scripted: Models, problems: list[LedgerProblem]):
    workload = Workload(models=scripted, problems=problems, seed=0, concurrency=8)
    facts = await compare(workload, Setting(strategy="best_of_n", n=8), Setting(strategy="best_of_n", n=1))
    assert facts["against"]["n"] == 1
    assert facts["difference"] == pytest.approx(facts["accuracy"] - facts["against"]["accuracy"])
    assert facts["difference_ci_low"] <= facts["difference"] <= facts["difference_ci_high"]
    parts = facts["by_kind"].values()
    assert sum(part["problems"] for part in parts) == facts["problems"] == 24
    assert sum(part["problems"] * part["accuracy"] for part in parts) == pytest.approx(24 * facts["accuracy"])


async def test_a_baseline_equal_to_oneself_makes_no_difference(scripted: Models, problems: list[LedgerProblem]):
    workload = Workload(models=scripted, problems=problems, seed=0, concurrency=8)
    facts = await compare(workload, Setting(strategy="beam", n=4), Setting(strategy="beam", n=4))
    assert (facts["difference_ci_low"], facts["difference_ci_high"]) == (0, 0)


CHOSEN = ("greedy", "self_consistency", "best_of_n", "beam", "greedy_prm")


async def test_the_grid_has_every_strategy_once_at_each_width(scripted: Models, problems: list[LedgerProblem]):
    settings = grid_of(Setting(strategy="beam", n=8, beam_width=2), CHOSEN, (1, 4, 8)).settings
    assert [(setting.strategy, setting.n) for setting in settings[:3]] == [
        ("greedy", None),
        ("self_consistency", 1),
        ("self_consistency", 4),
    ]
    assert len(settings) == 13
    workload = Workload(models=scripted, problems=problems[:4], seed=0, concurrency=8)
    rows = [row async for row in sweep(workload, settings, None)]
    table = grid_table(rows).splitlines()
    assert len(table) == 2 + 13
    assert table[0].startswith("| strategy | n | accuracy |")


def test_a_width_that_a_strategy_does_not_take_is_left_out_and_told():
    grid = grid_of(Setting(strategy="beam"), sorted(menu()), (1, 2, 4, 8, 16, 32))
    assert {setting.strategy for setting in grid.settings} == set(menu())
    assert grid.left_out == ("self_critique is left out at n = 32: Input should be less than or equal to 16",)
    with pytest.raises(InputError, match="n = 32"):
        grid_of(Setting(strategy="beam"), ["beam", "self_critique"], (32,))


async def test_the_grid_is_paired_with_a_baseline(scripted: Models, problems: list[LedgerProblem]):
    workload = Workload(models=scripted, problems=problems[:12], seed=0, concurrency=8)
    like = Setting(strategy="beam")
    baseline = parse_baseline("best_of_n@1", like)
    settings = grid_of(like, CHOSEN, (1, 4)).settings
    rows = {(row["strategy"], row["n"]): row async for row in sweep(workload, settings, baseline)}
    alone = rows["best_of_n", 1]
    assert (alone["difference"], alone["difference_ci_low"], alone["difference_ci_high"]) == (0.0, 0.0, 0.0)
    for row in rows.values():
        assert row["difference"] == pytest.approx(row["accuracy"] - alone["accuracy"])
    assert grid_table(list(rows.values())).splitlines()[0].endswith("| difference |")
