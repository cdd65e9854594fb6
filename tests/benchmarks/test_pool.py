"""Selection from one pool of chains."""

import math

import pytest

from cos.benchmarks.pool import Pool, block_accuracy, draw_pools, pool_facts, pool_table, rules, widths
from cos.benchmarks.setting import Setting
from cos.checkpoints import LedgerProblem
from cos.engines.scripted import Script, ScriptedEngine
from cos.evaluation.accuracy import evaluate, root_seed
from cos.prm.matching import match
from cos.search.errors import EngineDead, EngineError, InputError
from cos.search.models import Models
from cos.search.scale import Scale
from cos.search.types import Candidate, Chain, Piece

SETTING = Setting(strategy="best_of_n", n=8)
SCALE = Scale(aggregation="cos")


def test_widths_are_powers_of_two_and_the_whole_pool():
    assert widths(1) == [1]
    assert widths(8) == [1, 2, 4, 8]
    assert widths(12) == [1, 2, 4, 8, 12]


@pytest.mark.parametrize("strategy", ["best_of_n", "self_consistency"])
async def test_picking_from_the_whole_pool_is_what_the_strategy_does(
    scripted: Models, problems: list[LedgerProblem], strategy: str
):
    """Same seeds, same places in the tree: selection alone must reproduce the search."""
    pools = await draw_pools(scripted, problems, SETTING, 0, 8)
    picked = [block_accuracy(pool, rules(SCALE)[strategy], 8, 8) for pool in pools]
    searched = await evaluate(
        scripted, problems, lambda p: Setting(strategy=strategy, n=8).spec(root_seed(0, p.id)), 8, "search"
    )
    assert picked == searched.hits


async def test_the_likelihood_ranks_by_log_probability(scripted: Models, problems: list[LedgerProblem]):
    pools = await draw_pools(scripted, problems[:4], SETTING, 0, 4)
    for pool in pools:
        likeliest = max(pool.chains, key=lambda chain: chain.logprob or -math.inf)
        assert rules(SCALE)["likelihood"](pool.chains) == likeliest.answer
        assert all(0 <= (candidate.score or 0) <= 1 for chain in pool.chains for candidate in chain.candidates)


async def test_with_one_chain_every_rule_is_pass_at_one(scripted: Models, problems: list[LedgerProblem]):
    facts = pool_facts(await draw_pools(scripted, problems, SETTING, 0, 8), 8, SCALE, 0)
    first = facts["rows"][0]
    assert first["k"] == 1
    for name in rules(SCALE):
        assert first[name]["accuracy"] == pytest.approx(first["pass_at_k"]["accuracy"])
    for row in facts["rows"]:
        for name in rules(SCALE):
            assert row[name]["accuracy"] <= row["pass_at_k"]["accuracy"] + 1e-9 or row["k"] not in (1, 8)
    assert facts["prm_reads"] == 24 * 8 * 4
    assert len(pool_table(facts).splitlines()) == 2 + 4


def test_blocks_share_a_problem_out(problems: list[LedgerProblem]):
    asked = problems[0]

    def chain(index: int, answer: str) -> Chain:
        return Chain(
            (Candidate(path=(index,), written=(1,), tokens=1, piece=Piece("answer", answer), end="answer", score=0.5),)
        )

    right, wrong = asked.answer, "no"
    pool = Pool(asked, (chain(0, right), chain(1, wrong), chain(2, wrong)))
    assert pool.right == 1
    assert block_accuracy(pool, rules(SCALE)["best_of_n"], 4, 1) == 0.25
    assert block_accuracy(pool, rules(SCALE)["best_of_n"], 4, 2) == 0.5
    assert block_accuracy(pool, rules(SCALE)["self_consistency"], 4, 4) == 0


def test_the_pool_picks_by_the_prms_own_aggregation(problems: list[LedgerProblem]):
    def chain(index: int, first: float, last: float) -> Chain:
        step, answer = Piece("step", ""), Piece("answer", f"answer {index}")
        return Chain(
            (
                Candidate(path=(index,), written=(1,), tokens=1, piece=step, end="step", score=first),
                Candidate(path=(index, 0), written=(1,), tokens=1, piece=answer, end="answer", score=last),
            )
        )

    chains = [chain(0, 0.1, 0.9), chain(1, 0.5, 0.6)]
    assert rules(SCALE)["best_of_n"](chains) == "answer 0"
    assert rules(Scale(aggregation="min"))["best_of_n"](chains) == "answer 1"
    assert pool_facts([Pool(problems[0], tuple(chains))], 2, Scale(aggregation="min"), 0)["aggregation"] == "min"


def test_scores_that_are_no_probabilities_are_not_multiplied_by_likelihoods():
    unbounded = Scale(aggregation="last", threshold=None, lowest=-math.inf, highest=math.inf, is_probability=False)
    assert "prm_x_likelihood" in rules(SCALE)
    assert "prm_x_likelihood" not in rules(unbounded)


async def test_failed_requests_leave_gaps_not_crashes(problems: list[LedgerProblem]):
    def often(kind: str, number: int) -> Exception | None:
        return EngineError("no") if number % 3 == 0 else None

    faulty = match(ScriptedEngine(Script(fault=often)), ScriptedEngine(Script(fault=often)))
    facts = pool_facts(await draw_pools(faulty, problems, SETTING, 0, 4), 8, SCALE, 0)
    assert all(0 <= row["best_of_n"]["accuracy"] <= 1 for row in facts["rows"])


async def test_a_dead_prm_ends_the_pool_and_a_missing_one_is_refused(problems: list[LedgerProblem]):
    dead = ScriptedEngine(Script(fault=lambda kind, number: EngineDead("gone") if kind == "read" else None))
    with pytest.raises(EngineDead):
        await draw_pools(match(ScriptedEngine(), dead), problems, SETTING, 0, 4)
    with pytest.raises(InputError, match="give --prm"):
        await draw_pools(match(ScriptedEngine(), None), problems, SETTING, 0, 4)
