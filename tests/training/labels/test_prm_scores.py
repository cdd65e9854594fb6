"""Scores of written chains: every tag once, as a search would have read it, and resumable."""

import asyncio
import contextlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cos.engines.launch import Engines
from cos.engines.ports import Runtime
from cos.engines.scripted import Fault, Script, ScriptedEngine
from cos.evaluation.journal import Journal
from cos.prm.matching import match
from cos.search.errors import EngineDead, EngineError, InputError
from cos.search.grammars.cos import Step
from cos.search.models import Models
from cos.search.prompt import Prompt
from cos.search.types import Chain
from cos.training.data.questions import question_of
from cos.training.data.rows import ChainRow, ProblemRow
from cos.training.labels.prm_scores import Prm, read_chains, score_chains, tree_of
from tests.training.chains_support import lines, problems, until


def chain(problem: ProblemRow, number: int, *sure: float, answer: str = "5") -> ChainRow:
    """A chain whose steps say how sure they are, which is what the scripted PRM goes by."""
    steps = tuple(Step(f"Part {place}", f"I feel [{value:.4f}] sure.", "Yes.") for place, value in enumerate(sure))
    return ChainRow(id=f"{problem.id}/{number}", problem=problem, steps=steps, answer=answer)


def some(folder: Path, questions: int) -> list[ChainRow]:
    """Three chains a question; the first two begin alike."""
    return [
        row
        for problem in problems(folder, questions)
        for row in (chain(problem, 0, 0.9, 0.8), chain(problem, 1, 0.9, 0.3), chain(problem, 2, 0.25))
    ]


def prm(fault: Fault | None = None, judge: Callable[[Prompt, str], float] | None = None) -> Models:
    return alone(ScriptedEngine(Script(fault=fault, judge=judge)))


def alone(engine: Runtime) -> Models:
    """A PRM that also stands for the policy whose chains it reads."""
    return match(engine, engine)


async def read_alone(models: Models, row: ChainRow) -> list[float | None]:
    """Every tag by a request of its own, one after the other."""
    assert models.scorer is not None
    session = await models.scorer.open(await question_of(row.problem))
    nodes, (leaf,) = tree_of(models, [row])
    chains = [Chain(tuple(nodes[leaf[:end]] for end in range(1, depth + 1))) for depth in range(1, len(leaf) + 1)]
    return [(await session.score(chain)).score for chain in chains]


async def test_every_tag_has_the_score_that_it_has_when_it_is_read_alone(tmp_path: Path) -> None:
    rows = some(tmp_path, 3)
    scored = await read_chains(rows, prm())
    assert [row.id for row in scored] == [row.id for row in rows]
    assert scored[0].scores == pytest.approx((0.9, 0.8, 0.8))
    assert [list(row.scores or ()) for row in scored] == [await read_alone(prm(), row) for row in rows]


async def test_what_chains_of_a_question_begin_with_alike_is_read_once(tmp_path: Path) -> None:
    reads: list[int] = []
    await read_chains(some(tmp_path, 2), prm(lambda kind, number: reads.append(number)))
    assert len(reads) == 2 * 7, "8 tags, of which two are the same first step"


async def test_a_step_is_read_after_the_one_before_it_and_the_first_of_all_goes_ahead(tmp_path: Path) -> None:
    seen: list[int] = []

    def judge(prompt: Prompt, written: str) -> float:
        seen.append(written.count("ки"))
        return 0.5

    await read_chains(some(tmp_path, 1), prm(judge=judge))
    assert seen[0] == 1
    assert seen.index(2) > 0
    depth = {1: seen.count(1), 2: seen.count(2), 3: seen.count(3)}
    assert depth == {1: 2, 2: 3, 3: 2}


async def test_no_more_reads_than_asked_for_are_under_way(tmp_path: Path) -> None:
    engine = ScriptedEngine(Script(seconds_per_read=0.001))
    await read_chains(some(tmp_path, 20), alone(engine), concurrency=5)
    assert engine.most_in_flight == 5


async def test_a_read_that_fails_twice_or_is_not_finite_leaves_its_tag_unscored(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, 1)
    row = chain(problem, 0, 0.9)
    (twice,) = await read_chains([row], prm(lambda kind, number: EngineError("no") if number < 2 else None))
    assert twice.scores == (None, pytest.approx(0.9))
    (once,) = await read_chains([row], prm(lambda kind, number: EngineError("no") if number < 1 else None))
    assert once.scores == pytest.approx((0.9, 0.9))
    (nan,) = await read_chains([row], prm(judge=lambda question, written: math.nan))
    assert nan.scores == (None, None)


async def test_what_has_no_score_says_why_and_is_read_again(tmp_path: Path) -> None:
    rows, failed = some(tmp_path, 2), list[str]()
    with Journal(tmp_path / "journal", {}) as journal:
        first = await read_chains(rows, prm(lambda _, number: EngineError("out of memory")), 6, journal, failed)
    assert all(row.scores is not None and set(row.scores) == {None} for row in first)
    assert set(failed) == {"out of memory"}
    with Journal(tmp_path / "journal", {}) as journal:
        assert await read_chains(rows, prm(), 6, journal) == await read_chains(rows, prm())


async def test_a_dead_engine_ends_it(tmp_path: Path) -> None:
    with pytest.raises(EngineDead):
        await read_chains(some(tmp_path, 2), prm(lambda kind, number: EngineDead("gone")))


async def test_a_stopped_run_goes_on_and_reads_nothing_twice(tmp_path: Path) -> None:
    rows, path = some(tmp_path, 20), tmp_path / "journal"

    async def run(models: Models) -> list[ChainRow]:
        with Journal(path, {"prm": "scripted"}) as journal:
            return await read_chains(rows, models, 6, journal)

    task = asyncio.create_task(run(alone(ScriptedEngine(Script(seconds_per_read=0.002)))))
    await until(path, 6)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    finished = len(lines(path)) - 1
    assert 5 <= finished < 20
    reads: list[int] = []
    again = await run(prm(lambda kind, number: reads.append(number)))
    assert len(reads) == (20 - finished) * 7
    assert again == await read_chains(rows, prm())


async def test_other_chains_of_a_question_are_not_taken_for_those_in_the_journal(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, 1)
    with Journal(tmp_path / "journal", {}) as journal:
        await read_chains([chain(problem, 0, 0.9)], prm(), journal=journal)
        (other,) = await read_chains([chain(problem, 0, 0.2)], prm(), journal=journal)
    assert other.scores == pytest.approx((0.2, 0.2))


async def test_scores_that_are_there_stay_and_those_that_lack_one_are_read(tmp_path: Path) -> None:
    first, second, third = some(tmp_path, 1)
    rows = [replace(first, scores=(0.1, 0.1, 0.1)), replace(second, scores=(0.1, None, 0.1)), third]
    found = await score_chains(rows, Prm(model="scripted"), journal=tmp_path / "journal")
    assert found[0] == rows[0]
    assert found[1].scores == pytest.approx((0.9, 0.3, 0.3))
    assert found[2].scores == pytest.approx((0.25, 0.25))


async def test_no_engine_starts_when_all_is_scored(tmp_path: Path) -> None:
    rows = [replace(row, scores=(0.5,) * (len(row.steps) + 1)) for row in some(tmp_path, 1)]
    assert await score_chains(rows, Prm(model="no/such/model")) == rows


async def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, 1)
    row = chain(replace(problem, image=str(tmp_path / "gone.png")), 0, 0.5)
    with pytest.raises(InputError, match=r"row 'p0': picture '.*gone.png': cannot be read"):
        await read_chains([row], prm())


def test_a_tree_holds_its_parents_before_their_children(tmp_path: Path) -> None:
    nodes, leaves = tree_of(prm(), some(tmp_path, 1))
    assert leaves == [(0, 0, 0), (0, 1, 0), (1, 0)]
    assert all(path[:-1] in list(nodes)[:place] for place, path in enumerate(nodes) if len(path) > 1)
    assert [nodes[leaf].end for leaf in leaves] == ["answer"] * 3


@pytest.mark.real
@pytest.mark.asyncio(loop_scope="session")
async def test_a_real_prm_gives_a_tree_the_scores_of_its_chains(real_engines: Engines, tmp_path: Path) -> None:
    assert real_engines.prm is not None
    rows = some(tmp_path, 2)
    together = [list(row.scores or ()) for row in await read_chains(rows, alone(real_engines.prm))]
    one_by_one = [await read_alone(alone(real_engines.prm), row) for row in rows]
    for ours, theirs in zip(together, one_by_one, strict=True):
        assert ours == pytest.approx(theirs, abs=2e-2)
