"""Widened models search on the real engines as the small ones do."""

from dataclasses import replace
from pathlib import Path

import pytest

from cos.benchmarks.gpu.pairs import DRY_RUN_PAIRS, parse_pairs
from cos.benchmarks.gpu.plan import Plan, run
from cos.benchmarks.gpu.sizes import DRY_RUN
from cos.checkpoints import heldout

pytestmark = pytest.mark.real


async def test_a_widened_pair_comes_to_the_trees_of_the_small_one(tmp_path: Path) -> None:
    plan = Plan(
        pairs=parse_pairs(DRY_RUN_PAIRS),
        wanted=("contract", "memory"),
        sizes=replace(DRY_RUN, contract_strategies=("greedy", "beam", "best_of_n")),
        problems=heldout(),
        folder=tmp_path / "checkpoints",
        out=tmp_path / "gpu.json",
        limit_s=1800,
        server_flags="",
        seed=0,
        is_dry_run=True,
    )
    entries = (await run(plan))["pairs"]["small:small"]
    contract = entries["contract"]["facts"]
    assert (contract["searches"], contract["unlike"], contract["scores_missing"]) == (3, [], 0)
    assert contract["largest_score_gap"] < 1e-4
    assert int(entries["memory"]["facts"]["policy_cache"]["block_size"]) == 32
