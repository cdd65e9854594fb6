"""The stages that draw and read, on the real engines: chains, labels by two sources, pairs by the PRM."""

from pathlib import Path

import pytest

from cos.checkpoints import heldout
from cos.training.config.recipe import LabelConfig, PairsConfig, RolloutConfig
from cos.training.data.rows import ChainRow, PairRow, read_rows, write_rows
from cos.training.data.sources import files_of
from cos.training.runs.folder import StageContext
from cos.training.stages.label import run_label
from cos.training.stages.pairs import run_pairs
from cos.training.stages.rollout import run_rollout
from tests.real.heldout_ledgers import problem_row

pytestmark = pytest.mark.real

PROBLEMS, EACH, CONTINUATIONS = 6, 6, 4


def context(runs: Path, name: str) -> StageContext:
    return StageContext(folder=runs / name, runs=runs, seed=0)


def test_chains_are_drawn_labelled_and_paired(tmp_path: Path) -> None:
    problems = tmp_path / "problems.jsonl"
    write_rows(problems, [problem_row(asked, tmp_path) for asked in heldout()[:PROBLEMS]])
    rollout = RolloutConfig.model_validate(
        {"policy": "cos-tiny", "problems": {"data": [str(problems)]}, "each": EACH, "top_p": 1.0}
    )
    run_rollout(rollout, context(tmp_path, "rollout"))
    drawn = list(read_rows(tmp_path / "rollout" / "chains.jsonl", ChainRow))
    assert len(drawn) > PROBLEMS * EACH / 2
    assert {chain.right for chain in drawn} == {True, False}

    label = LabelConfig(
        chains=files_of(["rollout/chains.jsonl"]),
        sources=("exact", "monte_carlo"),
        policy="cos-tiny",
        continuations=CONTINUATIONS,
        top_p=1.0,
    )
    run_label(label, context(tmp_path, "label"))
    labelled = list(read_rows(tmp_path / "label" / "chains.jsonl", ChainRow))
    assert [chain.id for chain in labelled] == [chain.id for chain in drawn]
    for chain in labelled:
        exact, found = chain.labels["exact"], chain.labels["monte_carlo"]
        shares = [tag.soft * CONTINUATIONS for tag in found if tag is not None]
        assert len(shares) == len(found)
        assert all(share == int(share) for share in shares), "shares of so many"
        assert exact[-1] == found[-1], "the answer is right or it is not"
    tags = [
        (exact.hard, found.soft)
        for chain in labelled
        for exact, found in zip(chain.labels["exact"][:-1], chain.labels["monte_carlo"][:-1], strict=True)
        if exact is not None and found is not None
    ]
    good, bad = ([soft for hard, soft in tags if hard is kind] for kind in (True, False))
    assert sum(good) / len(good) > sum(bad) / len(bad) + 0.3, "what is true can be continued to the right end"

    run_pairs(PairsConfig(chains=files_of(["label/chains.jsonl"]), prm="cos-tiny", gap=0.1), context(tmp_path, "pairs"))
    pairs = list(read_rows(tmp_path / "pairs" / "pairs.jsonl", PairRow))
    scored = list(read_rows(tmp_path / "pairs" / "scored.jsonl", ChainRow))
    assert pairs
    assert all(pair.chosen_score > pair.rejected_score + 0.1 for pair in pairs)
    assert all(chain.scores is not None and None not in chain.scores for chain in scored)
    assert all(0 <= score <= 1 for chain in scored for score in chain.scores or () if score is not None)
