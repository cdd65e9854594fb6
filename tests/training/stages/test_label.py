"""Labels by the exact checker, and how far sources agree."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cos.ledger.chains import judged_turn
from cos.ledger.checker import exact_labels
from cos.ledger.rows import ledger_meta
from cos.ledger.task import Problem, clumsy, derive, sample_problem
from cos.ledger.tiny_model import build_tokenizer
from cos.search.errors import InputError
from cos.search.grammars.cos import Step
from cos.training.config.recipe import LabelConfig
from cos.training.data.row_data import judged
from cos.training.data.rows import ChainRow, ProblemRow, TagLabel, read_rows, write_rows
from cos.training.data.sources import files_of
from cos.training.labels.consensus import agreed_chains, agreements
from cos.training.learning.encode import TurnEncoder
from cos.training.stages.label import run_label, with_labels
from tests.training.training_support import context

LEDGER = Problem(("47", "85"), "total")
GOLD = derive(LEDGER)


def chain(folder: Path, number: int, steps: tuple[Step, ...] = GOLD.steps, answer: str = GOLD.answer) -> ChainRow:
    image = folder / "ledger.png"
    Image.new("RGB", (8, 8)).save(image)
    problem = ProblemRow(
        id="p", image=str(image), question=LEDGER.question, answer=GOLD.answer, meta=ledger_meta(LEDGER)
    )
    return ChainRow(id=f"p/{number}", problem=problem, steps=steps, answer=answer, right=answer == GOLD.answer)


def slipped(folder: Path) -> ChainRow:
    """A chain whose second step is not gold's."""
    return chain(folder, 1, (GOLD.steps[0], Step("Read row 2", "Row 2 shows 35.", ""), *GOLD.steps[2:]), "82")


def test_a_step_is_good_while_the_chain_is(tmp_path: Path) -> None:
    labels = exact_labels(slipped(tmp_path))
    assert [label.hard for label in labels] == [True, *[False] * len(GOLD.steps)]
    assert all(label.hard for label in exact_labels(chain(tmp_path, 0)))


def test_a_problem_that_is_no_ledger_has_no_exact_labels(tmp_path: Path) -> None:
    row = chain(tmp_path, 0)
    with pytest.raises(InputError, match="is no ledger"):
        exact_labels(replace(row, problem=replace(row.problem, meta={})))


def test_the_stage_writes_labels_beside_their_source(tmp_path: Path) -> None:
    write_rows(tmp_path / "chains.jsonl", [chain(tmp_path, 0), slipped(tmp_path)])
    where = context(tmp_path, "label")
    run_label(LabelConfig(chains=files_of([str(tmp_path / "chains.jsonl")])), where)
    first, second = read_rows(where.folder / "chains.jsonl", ChainRow)
    assert set(first.labels) == set(second.labels) == {"exact"}
    assert second.labels["exact"] == exact_labels(slipped(tmp_path))
    assert where.is_done


def test_sources_are_compared_and_only_agreed_chains_stay(tmp_path: Path) -> None:
    good, bad = chain(tmp_path, 0), slipped(tmp_path)
    always = TagLabel(1.0, True)
    rows = [
        with_labels(with_labels(row, "exact", exact_labels(row)), "judge", (always,) * (len(row.steps) + 1))
        for row in (good, bad)
    ]
    (found,) = agreements(rows, ("exact", "judge"))
    assert found.chains == 2
    assert found.step_agreement == pytest.approx((len(GOLD.steps) + 1) / (2 * len(GOLD.steps)), abs=1e-3)
    assert [row.id for row in agreed_chains(rows, ("exact", "judge"))] == ["p/0"]


def test_the_checker_and_the_tags_of_a_judged_turn_say_the_same(tmp_path: Path) -> None:
    encoder, rng = TurnEncoder(build_tokenizer()), random.Random(1)
    for _ in range(60):
        problem = sample_problem(rng)
        gold, written = derive(problem), derive(problem, clumsy(rng, 0.1, 0.1))
        asked = ProblemRow(id="p", image="", question=problem.question, answer=gold.answer, meta=ledger_meta(problem))
        row = ChainRow(id="p/0", problem=asked, steps=written.steps, answer=written.answer)
        turn = judged_turn(encoder, written, gold)
        at_tags = [verdict for verdict, tag in zip(turn.verdict, turn.is_tag, strict=True) if tag]
        assert at_tags == [label.soft for label in exact_labels(row)]


def test_chains_without_the_wanted_labels_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of 1 chains has labels by 'exact'"):
        judged([chain(tmp_path, 0)], TurnEncoder(build_tokenizer()), "exact", soft=False)
