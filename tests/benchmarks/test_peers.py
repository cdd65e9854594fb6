"""Beside others: what is compared, and what is run again."""

import json
from collections.abc import Sequence

import pytest

from cos.benchmarks.peers.its_hub import ChainForm, installed, introduction
from cos.benchmarks.peers.measure import Contest, compare_with_published, parse_peers
from cos.benchmarks.peers.published import parts
from cos.benchmarks.setting import Setting
from cos.benchmarks.side_by_side import SEARCHES_A_WORKER, Round, Tally, compare
from cos.checkpoints import LedgerProblem
from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.search import grammars
from cos.search.errors import CosError, InputError
from tests.benchmarks.test_commands import run


def way_of(log: list[str], name: str, *, right: bool) -> Round:
    async def search(problems: Sequence[LedgerProblem], concurrency: int, tally: Tally) -> None:
        log.append(f"{name} {len(problems)}")
        for problem in problems:
            tally.add(problem, problem.answer if right else "none", 0.1 if right else 0.4, 10)

    return search


async def test_both_ways_take_turns_over_the_same_problems(problems: list[LedgerProblem]):
    log: list[str] = []
    ours, theirs = way_of(log, "ours", right=True), way_of(log, "theirs", right=False)
    (row,) = await compare(ours, theirs, problems, (2,), 2, 0, "theirs")
    each = 2 * SEARCHES_A_WORKER
    assert log == ["ours 2", "theirs 2", *(f"{name} {each}" for name in ("theirs", "ours", "ours", "theirs"))]
    assert (row["accuracy"], row["theirs"]["accuracy"], row["difference"]) == (1, 0, 1)
    assert row["p95_ratio"] == pytest.approx(0.25)
    assert row["ours"]["searches"] == row["theirs"]["searches"] == 2 * each
    assert row["same_answers"] == 0


async def test_too_few_problems_are_told_before_anything_runs(problems: list[LedgerProblem]):
    log: list[str] = []
    way = way_of(log, "ours", right=True)
    with pytest.raises(InputError, match="9 rounds take 74 problems, there are 24"):
        await compare(way, way, problems, (2,), 9, 0, "theirs")
    assert log == []


async def test_what_is_published_answers_as_ours_does_where_models_never_err(problems: list[LedgerProblem]):
    contest = Contest(
        policy="scripted",
        prm="scripted",
        setting=Setting(strategy="best_of_n", n=4),
        problems=problems,
        levels=(2,),
        rounds=1,
        seed=0,
    )
    rows = await compare_with_published(contest, ["search-and-learn", "ThinkBooster"])
    named = {(row["peer"], row["strategy"], row["our_strategy"]) for row in rows}
    assert named == {
        (peer, theirs, ours)
        for peer in ("search-and-learn", "ThinkBooster")
        for theirs in ("best_of_n", "beam")
        for ours in ("auto", theirs)
    }
    for row in rows:
        assert row["theirs"]["searches"] == row["ours"]["searches"] == 2 * SEARCHES_A_WORKER
        assert row["theirs"]["tokens_per_search"] > 0
        assert row["theirs"]["accuracy"] > 0


def test_groups_hold_all_problems(problems: list[LedgerProblem]):
    assert [len(part) for part in parts(problems, 10)] == [10, 10, 4]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("...<|answer_start|>15<|answer_end|>", "15"),
        ("<|answer_start|>1<|answer_end|> and <|answer_start|> 2 <|answer_end|>", "2"),
        ("no answer", None),
        ("<|answer_start|>cut", None),
    ],
)
def test_the_answer_is_read_from_a_chains_text(text: str, answer: str | None):
    vocabulary = ScriptedVocabulary()
    form = ChainForm(grammars.choose(grammars.AUTO, vocabulary), vocabulary)
    assert form.answer_in(text) == answer


def test_the_process_of_its_hub_is_told_how_chains_are_cut_and_scored():
    vocabulary = ScriptedVocabulary()
    form = ChainForm(grammars.choose(grammars.AUTO, vocabulary), vocabulary)
    facts = introduction("http://policy", "http://prm", form, "cos-tiny", Setting(strategy="best_of_n", n=2))
    assert (facts["step_end"], facts["answer_end"]) == ("<|reasoning_step_end|>", "<|answer_end|>")
    assert (facts["tag"], list(facts["labels"])) == ("ки", ["к+и", "к-и"])
    assert len(set(facts["labels"].values())) == 2
    assert facts["step_weight"] == 0.2
    json.dumps(facts)


def test_peers_are_named_as_they_are(capsys: pytest.CaptureFixture[str]):
    assert parse_peers("thinkbooster, ITS_HUB,its_hub") == ("ThinkBooster", "its_hub")
    assert run("bench", "peers", "--peers", "optillm") == 2
    assert "there is no 'optillm'; choose among its_hub, search-and-learn, ThinkBooster" in capsys.readouterr().err


@pytest.mark.usefixtures("small_heldout")
def test_the_command_ends_in_one_json_object(capsys: pytest.CaptureFixture[str]):
    load = ["--peers", "ThinkBooster", "--concurrency", "2", "--rounds", "1", "--n", "2"]
    assert run("bench", "peers", *load) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert {"speedup", "accuracy", "peer_accuracy", "same_strategy_speedup", "results", "commit"} <= set(facts)
    assert "ThinkBooster" in captured.err


async def test_what_cannot_be_installed_is_told(tmp_path_factory: pytest.TempPathFactory):
    with pytest.raises(CosError, match=r"its_hub==0\.0\.0\.1 cannot be installed"):
        await installed(tmp_path_factory.mktemp("environment"), "its_hub==0.0.0.1")
