"""Rollouts: k whole chains a problem, and a run that can be killed at any moment."""

import asyncio
import contextlib
import json
from pathlib import Path

import pytest

from cos.engines.scripted import Script, ScriptedEngine
from cos.evaluation.failures import StageError
from cos.evaluation.journal import Journal
from cos.evaluation.sampling import ChainSampling
from cos.search.errors import EngineError, InputError
from cos.search.grammars.cos import answer_text, render_segments
from cos.search.types import Piece, Question
from cos.training.data.pieces import pieces_of, steps_of
from cos.training.data.problems import read_problems
from cos.training.data.rows import ChainRow, ProblemRow, read_rows, write_rows
from cos.training.stages.rollout import CHAINS, JOURNAL, roll_out
from tests.training.chains_support import STEPS, engine, lines, problems, sampler, until, writer


async def rolled(folder: Path, asked: list[ProblemRow], policy: ScriptedEngine, each: int = 4) -> list[ChainRow]:
    draws = sampler(policy, ChainSampling(seed=7), logprobs=True)
    await roll_out(draws, asked, folder, each, {"policy": "scripted"}, failed_at_most=0.1)
    return list(read_rows(folder / CHAINS, ChainRow))


async def test_every_problem_gets_its_chains_in_order_with_their_likelihood(tmp_path: Path) -> None:
    asked = problems(tmp_path, 5)
    chains = await rolled(tmp_path / "run", asked, engine())
    assert [chain.id for chain in chains] == [f"p{problem}/{k}" for problem in range(5) for k in range(4)]
    assert all(chain.logprob is not None and chain.logprob < 0 for chain in chains)
    assert all(chain.problem.image == asked[0].image for chain in chains)


async def test_a_chain_is_right_when_its_answer_is_gold(tmp_path: Path) -> None:
    chains = await rolled(tmp_path, problems(tmp_path, 8), engine())
    assert {chain.right for chain in chains} == {True, False}
    assert all(chain.right == (chain.answer == "5") for chain in chains)
    perfect = next(chain for chain in chains if chain.right)
    assert perfect.steps == STEPS
    assert perfect.segments == render_segments(STEPS, "5")


async def test_the_engine_is_kept_full_but_not_overfilled(tmp_path: Path) -> None:
    # Long enough for pictures to be opened meanwhile, which threads do.
    policy = ScriptedEngine(Script(writer=writer(), delay=lambda kind, number: 0.2))
    await rolled(tmp_path, problems(tmp_path, 12), policy, each=3)
    assert policy.most_in_flight == 8


async def test_a_run_that_was_stopped_ends_as_an_uninterrupted_one_and_draws_nothing_twice(tmp_path: Path) -> None:
    asked = problems(tmp_path, 20)
    whole = await rolled(tmp_path / "whole", asked, engine())
    folder = tmp_path / "stopped"
    task = asyncio.create_task(rolled(folder, asked, engine()))
    await until(folder / JOURNAL, 6)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    finished = len(lines(folder / JOURNAL)) - 1
    assert 5 <= finished < 20
    assert not (folder / CHAINS).exists()
    drawn: list[int] = []
    again = await rolled(folder, asked, engine(fault=lambda _, number: drawn.append(number)))
    assert again == whole
    assert len(drawn) == (20 - finished) * 4


async def test_a_line_that_was_cut_off_by_a_kill_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, {"k": 1}) as journal:
        journal.add("a", {"x": 1})
        journal.add("b", {"x": 2})
    path.write_bytes(path.read_bytes()[:-4])
    with Journal(path, {"k": 1}) as journal:
        assert journal.done == {"a": {"x": 1}}
        journal.add("b", {"x": 3})
    assert [json.loads(line) for line in lines(path)][-1] == {"key": "b", "value": {"x": 3}}


def test_a_journal_of_other_settings_is_refused_naming_them(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal", {"each": 8, "policy": "a"}):
        pass
    with pytest.raises(InputError, match="each was 8 and is 16"):
        Journal(tmp_path / "journal", {"each": 16, "policy": "a"})


def test_a_journal_damaged_in_the_middle_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text('{"each": 8}\n{"key\n{"key": "a", "value": {}}\n')
    with pytest.raises(InputError, match="journal:2: not JSON"):
        Journal(tmp_path / "journal", {"each": 8})


def test_a_line_that_is_none_of_a_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text('{"each": 8}\n[1]\n')
    with pytest.raises(InputError, match="journal:2: no line of a journal"):
        Journal(tmp_path / "journal", {"each": 8})


async def test_chains_without_an_answer_are_counted_and_set_aside(tmp_path: Path) -> None:
    grammar = writer()
    policy = engine(lambda question, written, rng: grammar(question, written, rng) if rng.random() < 0.5 else "none")
    outcome = await roll_out(sampler(policy), problems(tmp_path, 4), tmp_path, 3, {}, failed_at_most=0)
    assert 0 < outcome["unanswered"] < outcome["chains"] == 12
    assert len(lines(tmp_path / CHAINS)) == 12 - outcome["unanswered"]


async def test_a_policy_none_of_whose_chains_has_an_answer_is_an_error_and_no_end(tmp_path: Path) -> None:
    policy = engine(lambda question, written, rng: "no grammar at all")
    with pytest.raises(StageError, match=r"none of 6 chains has an answer: .* \(stage `sft`\)"):
        await roll_out(sampler(policy), problems(tmp_path, 2), tmp_path, 3, {}, failed_at_most=0)
    assert not (tmp_path / CHAINS).exists()


async def test_a_chain_whose_request_fails_twice_is_lost_and_counted(tmp_path: Path) -> None:
    policy = engine(fault=lambda kind, number: EngineError("no") if number < 6 else None)
    asked = problems(tmp_path, 1)
    outcome = await roll_out(sampler(policy, concurrency=2), asked, tmp_path, 4, {}, failed_at_most=0.5)
    assert (outcome["lost"], outcome["chains"]) == (2, 2), "all failed once, two of them twice"


async def test_a_run_that_lost_too_many_chains_is_not_done_and_draws_only_those_again(tmp_path: Path) -> None:
    asked = problems(tmp_path, 4)
    whole = await rolled(tmp_path / "whole", asked, engine())
    folder = tmp_path / "run"
    sick = engine(fault=lambda kind, number: EngineError("out of memory") if number >= 10 else None)
    with pytest.raises(StageError, match=r"of 16 chains could not be drawn, .* because: out of memory; .*only what"):
        await rolled(folder, asked, sick)
    assert not (folder / CHAINS).exists()
    endings = [ending for line in lines(folder / JOURNAL)[1:] for ending in json.loads(line)["value"]["endings"]]
    drawn: list[int] = []
    assert await rolled(folder, asked, engine(fault=lambda _, number: drawn.append(number))) == whole
    assert len(drawn) == endings.count(None) >= 6


async def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    row = ProblemRow(id="p", image=str(tmp_path / "gone.png"), question="?", answer="1")
    with pytest.raises(InputError, match=r"row 'p': picture '.*gone.png': cannot be read"):
        await rolled(tmp_path / "run", [row], engine())


async def test_a_continuation_begins_where_its_steps_end(tmp_path: Path) -> None:
    draws = sampler(engine(writer(0.0)))
    session = await draws.open(problem_question())
    for given in range(len(STEPS) + 1):
        (found,) = await draws.write(session, "p", 1, pieces_of(STEPS[:given]))
        assert (steps_of(found.steps), found.answer) == (STEPS[given:], Piece("answer", "5"))


def problem_question() -> Question:
    return Question("What is the sum?")


async def test_a_chain_that_is_cut_by_the_limit_has_no_answer() -> None:
    draws = sampler(engine(writer(0.0)), ChainSampling(max_tokens=60))
    (found,) = await draws.write(await draws.open(problem_question()), "p", 1)
    assert found.answer is None
    assert found.tokens == 60


async def test_an_answer_in_odd_brackets_is_read_as_the_search_reads_it() -> None:
    draws = sampler(engine(lambda q, w, r: answer_text(" (15) ", first=True)))
    (found,) = await draws.write(await draws.open(problem_question()), "p", 1)
    assert found.answer == Piece("answer", "15")


async def test_problems_can_be_read_from_chains_and_are_taken_once(tmp_path: Path) -> None:
    asked = problems(tmp_path, 3)
    await rolled(tmp_path / "run", asked, engine())
    assert read_problems([tmp_path / "run" / CHAINS]) == asked
    write_rows(tmp_path / "problems.jsonl", asked)
    assert read_problems([tmp_path / "problems.jsonl", tmp_path / "run" / CHAINS]) == asked


def test_one_id_for_two_problems_is_refused(tmp_path: Path) -> None:
    asked = problems(tmp_path, 1)
    write_rows(tmp_path / "a.jsonl", asked)
    write_rows(tmp_path / "b.jsonl", [ProblemRow(id="p0", image=asked[0].image, question="Another?", answer="5")])
    with pytest.raises(InputError, match="'p0' names two different problems"):
        read_problems([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
