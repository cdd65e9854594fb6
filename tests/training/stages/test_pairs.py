"""Pairs of chains: the reward of each, and who is paired with whom."""

from dataclasses import replace
from pathlib import Path

import pytest

from cos.evaluation.failures import StageError
from cos.search.errors import InputError
from cos.search.grammars.cos import Step
from cos.training.config.recipe import PairsConfig
from cos.training.data.rows import ChainRow, PairRow, read_rows, write_rows
from cos.training.labels.prm_scores import Prm
from cos.training.stages.pairs import pairs_of, reward_of, run_pairs, summary
from tests.training.training_support import QUESTION, context, write_chains


def config(**keys: object) -> PairsConfig:
    return PairsConfig.model_validate({"chains": ("chains.jsonl",), **keys})


def scored(path: Path, scores: list[float]) -> list[ChainRow]:
    """Chains of one question, whose every tag has one score."""
    rows = list(read_rows(write_chains(path, len(scores)), ChainRow))
    return [
        replace(row, id=f"p/{number}", problem=rows[0].problem, scores=(score,) * (len(row.steps) + 1))
        for number, (row, score) in enumerate(zip(rows, scores, strict=True))
    ]


def test_a_chain_is_worth_its_steps_and_its_answer(tmp_path: Path) -> None:
    row = scored(tmp_path / "c.jsonl", [0.5, 0.5])[1]
    row = replace(row, scores=(0.2, 0.4, 0.9))
    assert reward_of(row, config()) == pytest.approx(0.2 * 0.3 + 0.8 * 0.9)
    assert reward_of(row, config(reward="answer")) == 0.9
    assert reward_of(row, config(reward="outcome")) == 0.0
    assert reward_of(replace(row, scores=(None, 0.4, 0.9)), config()) is None, "an unscored step is no zero"


def test_the_best_is_paired_with_the_worst_and_then_inwards(tmp_path: Path) -> None:
    rows = scored(tmp_path / "c.jsonl", [0.1, 0.9, 0.5, 0.8])
    (best,) = pairs_of(rows, config())
    assert (best.chosen.id, best.rejected.id) == ("p/1", "p/0")
    both = pairs_of(rows, config(per_question=5))
    assert [(pair.chosen.id, pair.rejected.id) for pair in both] == [("p/1", "p/0"), ("p/3", "p/2")]
    assert len(pairs_of(rows, config(per_question=5, gap=0.35))) == 1


def test_a_better_chain_that_is_poor_itself_makes_no_pair(tmp_path: Path) -> None:
    rows = scored(tmp_path / "c.jsonl", [0.1, 0.6])
    assert len(pairs_of(rows, config(least=0.6))) == 1
    assert pairs_of(rows, config(least=0.61)) == []


def test_chains_that_say_the_same_are_one(tmp_path: Path) -> None:
    first, second = scored(tmp_path / "c.jsonl", [0.1, 0.9])
    assert pairs_of([first, replace(first, id=second.id, scores=(0.9,) * 2)], config()) == []


def test_chains_with_scores_need_no_prm(tmp_path: Path) -> None:
    write_rows(tmp_path / "chains.jsonl", scored(tmp_path / "c.jsonl", [0.1, 0.9]))
    run_pairs(config(chains=(str(tmp_path / "chains.jsonl"),)), context(tmp_path, "pairs"))
    (pair,) = read_rows(tmp_path / "pairs" / "pairs.jsonl", PairRow)
    assert pair.problem.question == QUESTION
    assert pair.chosen_score > pair.rejected_score


def test_no_pair_at_all_is_an_error_that_says_why(tmp_path: Path) -> None:
    write_rows(tmp_path / "chains.jsonl", scored(tmp_path / "c.jsonl", [0.5, 0.6]))
    with pytest.raises(InputError, match=r"differs by more than gap 0\.2 .* the farthest apart are 0\.6 and 0\.5"):
        run_pairs(config(chains=(str(tmp_path / "chains.jsonl"),)), context(tmp_path, "pairs"))


def test_chains_without_scores_and_prm_are_refused(tmp_path: Path) -> None:
    chains = write_chains(tmp_path / "chains.jsonl", 2)
    with pytest.raises(InputError, match="give prm"):
        run_pairs(config(chains=(str(chains),)), context(tmp_path, "pairs"))


def test_chains_that_mostly_cannot_be_scored_are_an_error_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unscored(rows: list[ChainRow], _prm: Prm, _n: int, _path: Path, failed: list[str]) -> list[ChainRow]:
        failed += ["out of memory"] * len(rows)
        return rows

    monkeypatch.setattr("cos.training.stages.pairs.score_chains", unscored)
    chains = write_chains(tmp_path / "chains.jsonl", 4)
    with pytest.raises(StageError, match=r"4 of 4 chains could not be scored, 4 of them because: out of memory"):
        run_pairs(config(chains=(str(chains),), prm="prm/model"), context(tmp_path, "pairs"))
    assert not (tmp_path / "pairs" / "done.json").exists()


def test_scores_are_read_once_and_kept_for_another_gap(tmp_path: Path) -> None:
    rows = [
        replace(row, steps=(Step("Look", f"I feel [{sure:.4f}] sure.", "Yes."),), scores=None, labels={})
        for row, sure in zip(scored(tmp_path / "c.jsonl", [0.0, 0.0]), (0.9, 0.4), strict=True)
    ]
    write_rows(tmp_path / "chains.jsonl", rows)
    config_of = config(chains=(str(tmp_path / "chains.jsonl"),), prm="scripted", gap=0.6)
    with pytest.raises(InputError, match=r"gap 0\.6"):
        run_pairs(config_of, context(tmp_path, "pairs"))
    kept = str(tmp_path / "pairs" / "scored.jsonl")
    run_pairs(config(chains=(kept,), prm="no/such/model"), context(tmp_path, "again"))
    (pair,) = read_rows(tmp_path / "again" / "pairs.jsonl", PairRow)
    assert (pair.chosen_score, pair.rejected_score) == (pytest.approx(0.9), pytest.approx(0.4))


def test_the_outcome_is_looked_up_where_gold_is_known_and_nobody_looked(tmp_path: Path) -> None:
    right, wrong = (replace(row, right=None) for row in scored(tmp_path / "c.jsonl", [0.1, 0.9]))
    (pair,) = pairs_of([wrong, right], config(reward="outcome"))
    assert (pair.chosen.id, pair.rejected.id) == (right.id, wrong.id)
    no_gold = [replace(row, problem=replace(row.problem, answer="")) for row in (right, wrong)]
    assert pairs_of(no_gold, config(reward="outcome")) == []


def test_the_summary_tells_gap_rightness_and_length(tmp_path: Path) -> None:
    rows = scored(tmp_path / "c.jsonl", [0.9, 0.1])
    assert summary(pairs_of(rows, config()), rows) == {
        "questions": 1,
        "chains": 2,
        "pairs": 1,
        "mean_gap": 0.8,
        "chosen_right": 1.0,
        "rejected_right": 0.0,
        "chosen_steps": 1.0,
        "rejected_steps": 2.0,
    }


def test_one_id_in_two_files_is_refused(tmp_path: Path) -> None:
    files = [write_chains(tmp_path / name / "chains.jsonl", 2) for name in ("a", "b")]
    with pytest.raises(InputError, match="'p0/0' is in two of the files"):
        run_pairs(config(chains=tuple(map(str, files))), context(tmp_path, "pairs"))
