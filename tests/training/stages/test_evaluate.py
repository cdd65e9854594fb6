"""The stage `evaluate`: what comes out for chains and problems whose truth is known."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from cos.engines.scripted import ScriptedEngine
from cos.prm.matching import match
from cos.search.errors import InputError
from cos.search.grammars.cos import Step
from cos.training.config.keys import ProblemSource
from cos.training.config.recipe import EvaluateConfig
from cos.training.data.rows import ChainRow, ProblemRow, TagLabel, write_rows
from cos.training.data.sources import files_of
from cos.training.labels.prm_scores import read_chains, tree_of
from cos.training.learning.parity import compared
from cos.training.runs.folder import StageContext
from cos.training.stages.evaluate import run_evaluate, searches


def problem(folder: Path, index: int) -> ProblemRow:
    """One that the scripted writer answers when all goes well."""
    question = f"What is on sheet {index}?"
    image = folder / f"{index}.png"
    Image.new("RGB", (8, 8), (index % 256, 0, 0)).save(image)
    answer = str(int(hashlib.sha256(question.encode()).hexdigest(), 16) % 90 + 10)
    return ProblemRow(id=f"sheet-{index}", image=str(image), question=question, answer=answer)


def chain(row: ProblemRow, number: int, sure: Sequence[float], good: Sequence[bool]) -> ChainRow:
    """A chain whose steps say how sure they are, which is what the scripted PRM goes by; an answer is as good as the
    least sure step."""
    steps = tuple(Step(f"Step {i}", f"I feel [{s:.4f}] sure.", "So it is.") for i, s in enumerate(sure))
    labels = tuple(TagLabel(float(g), g) for g in (*good, all(good)))
    return ChainRow(id=f"{row.id}/{number}", problem=row, steps=steps, answer="12", labels={"exact": labels})


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    return StageContext(folder=tmp_path / "runs" / "evaluate", runs=tmp_path / "runs")


@pytest.fixture
def chains(tmp_path: Path) -> Path:
    """Good steps say 0.9, bad ones 0.1; in one chain of four they are mistaken."""
    rows = [problem(tmp_path, index) for index in range(40)]
    found = [
        chain(row, number, [0.9 if g != (index % 4 == 0) else 0.1 for g in good], good)
        for index, row in enumerate(rows)
        for number, good in enumerate(([True, True], [True, False], [False, False]))
    ]
    path = tmp_path / "chains.jsonl"
    write_rows(path, found)
    return path


def measured(config: EvaluateConfig, context: StageContext) -> dict[str, Any]:
    run_evaluate(config, context)
    return json.loads((context.folder / "evaluation.json").read_text())


def test_the_report_holds_balanced_accuracies_and_calibration(chains: Path, context: StageContext):
    facts = measured(EvaluateConfig(prm="scripted", chains=files_of([str(chains)])), context)
    assert facts["step_accuracy"] == pytest.approx(0.75)
    assert facts["steps"]["bad_found"] == pytest.approx(0.75)
    assert facts["steps"]["false_alarms"] == pytest.approx(0.25)
    assert 0.5 < facts["answer_accuracy"] < 1
    assert facts["ece"] == pytest.approx(facts["calibration"]["ece"])
    assert facts["calibration"]["corrected"]["platt"]["ece"] < facts["ece"]
    assert (facts["chains"], facts["problems"], facts["tags"], facts["unscored"]) == (120, 40, 360, 0)
    assert {"commit", "hardware", "checkpoints", "seed", "labels"} <= set(facts)


def test_report_plot_and_end_mark_are_in_the_folder(chains: Path, context: StageContext):
    facts = measured(EvaluateConfig(prm="scripted", chains=files_of([str(chains)])), context)
    done = json.loads((context.folder / "done.json").read_text())
    assert done["outcome"]["step_accuracy"] == facts["step_accuracy"]
    with Image.open(context.folder / "reliability.png") as picture:
        assert picture.format == "PNG"


def test_seen_questions_are_reported_apart(chains: Path, context: StageContext):
    config = EvaluateConfig(prm="scripted", chains=files_of([str(chains)]), seen_chains=files_of([str(chains)]))
    facts = measured(config, context)
    assert facts["seen"]["step_accuracy"] == facts["step_accuracy"]
    assert facts["seen"]["chains"] == facts["chains"]


def test_stored_scores_need_no_engine(tmp_path: Path, context: StageContext):
    rows = [problem(tmp_path, index) for index in range(8)]
    scored = [
        ChainRow(
            id=f"{row.id}/0",
            problem=row,
            steps=(Step("a", "b", "c"),),
            answer="1",
            scores=(0.9, 0.2),
            labels={"judge": (TagLabel(1.0, index % 2 == 0), TagLabel(0.0, index % 2 == 1))},
        )
        for index, row in enumerate(rows)
    ]
    path = tmp_path / "scored.jsonl"
    write_rows(path, scored)
    config = EvaluateConfig(prm="no/such/model", chains=files_of([str(path)]), stored_scores=True, labels="judge")
    facts = measured(config, context)
    assert facts["step_accuracy"] == 0.5
    write_rows(path, [unscored(row) for row in scored])
    with pytest.raises(InputError, match="'sheet-0/0' has no stored scores"):
        run_evaluate(config, context)


def unscored(row: ChainRow) -> ChainRow:
    return ChainRow(id=row.id, problem=row.problem, steps=row.steps, answer=row.answer, labels=row.labels)


def test_a_policy_is_measured_alone_and_under_search(tmp_path: Path, context: StageContext):
    path = tmp_path / "problems.jsonl"
    write_rows(path, [problem(tmp_path, index) for index in range(20)])
    config = EvaluateConfig(policy="scripted", prm="scripted", problems=ProblemSource(data=(str(path),)), n=4)
    facts = measured(config, context)
    assert "step_accuracy" not in facts, "no chains, no verdicts"
    policy = facts["policy"]
    assert list(policy) == [search.name for search in searches(4, with_prm=True)]
    assert policy["best_of_n"]["accuracy"] > policy["one_sample"]["accuracy"]
    assert policy["best_of_n"]["prm_reads"] == 20 * 4 * 4
    assert policy["greedy"]["above_greedy"] == 0
    assert policy["greedy"]["mean_steps"] == 3
    assert policy["best_of_n"]["ci_low"] <= policy["best_of_n"]["accuracy"] <= policy["best_of_n"]["ci_high"]


def test_a_policy_is_measured_as_its_own_judge(tmp_path: Path, context: StageContext):
    path = tmp_path / "problems.jsonl"
    write_rows(path, [problem(tmp_path, index) for index in range(2)])
    config = EvaluateConfig(policy="scripted", prm="judge", problems=ProblemSource(data=(str(path),)), n=2)
    facts = measured(config, context)
    assert facts["policy"]["best_of_n"]["prm_reads"] == 2 * 2 * 4
    assert facts["checkpoints"]["prm"] is None


def test_without_a_prm_searches_go_by_likelihood(tmp_path: Path, context: StageContext):
    path = tmp_path / "problems.jsonl"
    write_rows(path, [problem(tmp_path, index) for index in range(4)])
    config = EvaluateConfig(policy="scripted", problems=ProblemSource(data=(str(path),)), n=2)
    policy = measured(config, context)["policy"]
    assert "best_of_n" not in policy
    assert policy["likelihood"]["prm_reads"] == 0


def test_chains_without_the_wanted_labels_are_an_error_that_names_one(chains: Path, context: StageContext):
    config = EvaluateConfig(prm="scripted", chains=files_of([str(chains)]), labels="monte_carlo")
    with pytest.raises(InputError, match=r"'sheet-0/0' has no labels by 'monte_carlo' \(it has exact\)"):
        run_evaluate(config, context)


async def test_a_written_chain_is_scored_as_the_search_would_score_it(tmp_path: Path):
    row = chain(problem(tmp_path, 0), 0, [0.8, 0.3], [True, True])
    engine = ScriptedEngine()
    models = match(engine, engine)
    (found,) = await read_chains([row], models)
    assert found.scores == (pytest.approx(0.8), pytest.approx(0.3), pytest.approx(0.3))
    nodes, _ = tree_of(models, [row])
    written = list(nodes.values())
    texts = [engine.vocabulary.decode(cast("tuple[int, ...]", candidate.written)) for candidate in written]
    assert texts == row.segments
    assert [candidate.end for candidate in written] == ["step", "step", "answer"]
    assert re.search(r"\[0\.8000\]", texts[0])


def test_comparing_two_sides_finds_the_largest_gap_and_refuses_a_missing_score():
    tags = compared([[0.5, 0.9]], [[0.5, 0.7]])
    assert max(tags, key=lambda tag: tag.gap).segment == 1
    with pytest.raises(ValueError, match="no score for segment 1 of chain 0"):
        compared([[0.5, None]], [[0.5, 0.7]])
