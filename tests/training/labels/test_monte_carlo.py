"""Labels by continuations: each step's share of right endings, and what is drawn for it."""

import asyncio
import json
import random
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cos.engines.scripted import ScriptedEngine
from cos.evaluation.failures import StageError
from cos.evaluation.sampling import ChainSampling
from cos.ledger.checker import BAD, GOOD
from cos.search.errors import EngineError, InputError
from cos.search.grammars.cos import Step, answer_text
from cos.search.prompt import Prompt
from cos.training.config.recipe import LabelConfig
from cos.training.data.rows import ChainRow, TagLabel
from cos.training.data.sources import files_of
from cos.training.labels.monte_carlo import Continuing, Spent, monte_carlo_labels
from cos.training.stages.label import continued
from tests.training.chains_support import STEPS, engine, lines, problems, sampler, writer

SLIP = Step("Add", "oops", "It follows.")


def chains(folder: Path, *written: tuple[tuple[Step, ...], str]) -> list[ChainRow]:
    (problem,) = problems(folder, 1)
    return [
        ChainRow(id=f"p0/{number}", problem=problem, steps=steps, answer=answer)
        for number, (steps, answer) in enumerate(written)
    ]


async def label(
    policy: ScriptedEngine, rows: list[ChainRow], how: Continuing | None = None, seed: int = 0
) -> tuple[dict[str, tuple[TagLabel, ...]], Spent]:
    draws = sampler(policy, ChainSampling(seed=seed))
    return await monte_carlo_labels(draws, rows, how or Continuing(continuations=8))


async def test_a_step_is_worth_the_share_of_its_continuations_that_end_right(tmp_path: Path) -> None:
    rows = chains(tmp_path, (STEPS, "5"))
    found, spent = await label(engine(writer(0.5)), rows, Continuing(continuations=400))
    first, second, answer = found["p0/0"]
    assert first.soft == pytest.approx(0.5, abs=0.1), "one more step can go wrong"
    assert second.soft == 1.0, "only the answer is left"
    assert answer == GOOD
    assert (spent.prefixes, spent.continuations) == (2, 800)


async def test_what_went_wrong_is_bad_from_there_on_and_nothing_more_is_drawn_for_it(tmp_path: Path) -> None:
    rows = chains(tmp_path, ((STEPS[0], SLIP), "6"), ((SLIP, STEPS[1]), "6"))
    found, spent = await label(engine(writer(0.0)), rows)
    assert [tag.hard for tag in found["p0/0"]] == [True, False, False]
    assert list(found["p0/1"]) == [TagLabel(0.0, False), BAD, BAD]
    assert spent.not_continued == 1, "the second chain's second step"
    assert spent.prefixes == 3


async def test_every_step_is_continued_when_told_so_and_always_for_a_right_answer(tmp_path: Path) -> None:
    rows = chains(tmp_path, ((SLIP, STEPS[1]), "6"), ((SLIP, STEPS[1]), "5"))
    _, spent = await label(engine(writer(0.0)), rows, Continuing(continuations=2, stop_at_zero=False))
    assert (spent.prefixes, spent.shared, spent.not_continued) == (2, 2, 0)
    found, spent = await label(engine(writer(0.0)), rows[1:])
    assert [tag.hard for tag in found["p0/1"]] == [False, False, True], "a right answer after false steps"
    assert spent.not_continued == 0


async def test_chains_share_the_continuations_of_what_they_share(tmp_path: Path) -> None:
    rows = chains(tmp_path, (STEPS, "5"), (STEPS, "6"), ((STEPS[0], SLIP), "6"))
    found, spent = await label(engine(), rows)
    assert (spent.prefixes, spent.shared) == (3, 3)
    assert len({found[name][0] for name in found}) == 1
    assert [found["p0/0"][-1], found["p0/1"][-1]] == [GOOD, BAD]


async def test_the_hard_label_asks_for_more_than_the_threshold(tmp_path: Path) -> None:
    rows = chains(tmp_path, (STEPS, "5"))
    soft = (await label(engine(writer(0.5)), rows))[0]["p0/0"][0].soft
    assert 0 < soft < 1
    for threshold, hard in ((0.0, True), (soft, False), (soft - 0.01, True)):
        found, _ = await label(engine(writer(0.5)), rows, Continuing(continuations=8, hard_above=threshold))
        assert found["p0/0"][0] == TagLabel(soft, hard)


async def test_labels_follow_from_the_seed_whatever_else_is_labelled(tmp_path: Path) -> None:
    rows = chains(tmp_path, (STEPS, "5"), ((STEPS[0], SLIP), "6"))
    alone, _ = await label(engine(writer(0.5)), rows[1:])
    together, _ = await label(engine(writer(0.5)), rows)
    other, _ = await label(engine(writer(0.5)), rows, Continuing(continuations=8), seed=3)
    assert alone["p0/1"] == together["p0/1"]
    assert other != together


async def test_a_lost_continuation_counts_neither_way(tmp_path: Path) -> None:
    lost = engine(writer(0.0), fault=lambda _, number: EngineError("no") if number in (0, 8) else None)
    found, spent = await label(lost, chains(tmp_path, (STEPS, "5")))
    assert [tag.soft for tag in found["p0/0"]] == [1.0, 1.0, 1.0]
    assert spent.continuations in (15, 16)


async def test_a_step_of_which_nothing_is_known_leaves_its_chain_unlabelled(tmp_path: Path) -> None:
    found, _ = await label(engine(fault=lambda kind, number: EngineError("no")), chains(tmp_path, (STEPS, "5")))
    assert found == {}, "no label, and not a bad one"


async def test_too_many_unlabelled_chains_are_an_error_and_only_those_are_tried_again(tmp_path: Path) -> None:
    rows = [ChainRow(id=f"{asked.id}/0", problem=asked, steps=STEPS, answer="5") for asked in problems(tmp_path, 10)]
    config = LabelConfig(chains=files_of(["-"]), sources=("monte_carlo",), policy="-", continuations=2)

    async def go_on(policy: ScriptedEngine) -> dict[str, tuple[TagLabel, ...]]:
        draws = sampler(policy, concurrency=4)
        return (await continued(draws, config, rows, tmp_path / "journal", {}))[0]

    sick = engine(fault=lambda kind, number: EngineError("out of memory") if number >= 20 else None)
    with pytest.raises(StageError, match=r"of 10 chains could not be continued, .* because: out of memory; .*raise"):
        await go_on(sick)
    failed = [json.loads(line)["value"]["shares"] for line in lines(tmp_path / "journal")[1:]].count({})
    drawn: list[int] = []
    found = await go_on(engine(fault=lambda _, number: drawn.append(number)))
    assert set(found) == {row.id for row in rows}
    assert len(drawn) == failed * len(STEPS) * 2, "chains with labels are left alone"


async def test_one_id_for_two_chains_is_refused(tmp_path: Path) -> None:
    config = LabelConfig(chains=files_of(["-"]), sources=("monte_carlo",), policy="-")
    rows = chains(tmp_path, (STEPS, "5")) * 2
    with pytest.raises(InputError, match="id 'p0/0' names 2 chains"):
        await continued(sampler(engine(), concurrency=4), config, rows, tmp_path / "journal", {})


async def test_an_unreadable_continuation_ends_wrong(tmp_path: Path) -> None:
    def write(prompt: Prompt, written: str, rng: random.Random) -> str:
        return "no grammar at all" if rng.random() < 0.5 else answer_text("5", first=False)

    found, _ = await label(engine(write), chains(tmp_path, (STEPS, "5")), Continuing(continuations=200))
    assert found["p0/0"][0].soft == pytest.approx(0.5, abs=0.15)


async def test_a_stopped_labelling_leaves_no_task_behind(tmp_path: Path) -> None:
    rows = chains(tmp_path, (STEPS, "5"), (STEPS, "6"))
    before = asyncio.all_tasks()
    policy = engine(writer(0.5))
    task = asyncio.create_task(label(policy, [replace(row) for row in rows], Continuing(continuations=4_000)))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == before
    assert policy.in_flight == 0


def test_what_labels_took_does_not_take_the_place_of_what_rows_were_left_out() -> None:
    counted = {"chains", "rows", "skipped", "labelled", "failed", "kept"}
    assert counted.isdisjoint(asdict(Spent())), "both stand in one outcome"
