"""The paper in miniature: measured once, resumed, reported with what it cannot say."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cos.benchmarks.pool import Pool, draw_pool
from cos.benchmarks.reproduce import paper
from cos.benchmarks.reproduce.findings import Estimate, Finding, paired
from cos.benchmarks.reproduce.judging import accuracy_section
from cos.benchmarks.reproduce.measures import (
    Bench,
    LazyModels,
    ModelNames,
    pool_of,
    pool_value,
    pools,
    rescored,
    searches,
)
from cos.benchmarks.reproduce.policies import PolicyResult, rewards_section, rounds_section, steps_section
from cos.benchmarks.reproduce.run import PARTS, parse_named, parse_parts, parse_rounds
from cos.benchmarks.reproduce.scaling import CURVES, scaling_of, weight_shares
from cos.benchmarks.setting import Setting
from cos.checkpoints import LedgerProblem
from cos.clients.cli import main
from cos.engines.scripted import ScriptedEngine
from cos.evaluation.accuracy import evaluate, root_seed
from cos.evaluation.files import take_lock
from cos.prm.matching import match
from cos.search.errors import InputError
from cos.search.models import Models
from cos.search.types import Candidate, Chain, Piece

POOL = Setting(strategy="best_of_n", n=8)


class Ready(LazyModels):
    """Models that are there already, and a count of how often they were wanted."""

    def __init__(self, names: ModelNames, matched: Models) -> None:
        self.names = names
        self.matched = matched
        self.starts = 0

    async def start(self) -> Models:
        self.starts += 1
        return self.matched


@pytest.fixture
def bench(tmp_path: Path, problems: list[LedgerProblem]) -> Bench:
    return Bench(work=tmp_path / "work", problems=problems, seed=0)


@pytest.fixture
def engines(scripted: Models) -> Ready:
    return Ready(ModelNames("scripted", "scripted"), scripted)


async def test_a_pool_survives_being_written_down(scripted: Models, problems: list[LedgerProblem]):
    pool = await draw_pool(scripted, problems[0], POOL, 0)
    again = pool_of(problems[0], json.loads(json.dumps(pool_value(pool))))
    assert again.right == pool.right
    for mine, other in zip(again.chains, pool.chains, strict=True):
        assert (mine.path, mine.prefix, mine.answer, mine.logprob) == (
            other.path,
            other.prefix,
            other.answer,
            other.logprob,
        )
        assert [c.score for c in mine.candidates] == [c.score for c in other.candidates]
        assert None not in [c.score for c in mine.candidates]


def test_a_pool_whose_policy_gives_text_alone_is_refused(problems: list[LedgerProblem]):
    answer = Candidate(path=(0,), written="7", tokens=1, piece=Piece("answer", "7"), end="answer")
    with pytest.raises(InputError, match="stored as token ids"):
        pool_value(Pool(problems[0], (Chain((answer,)),)))


def test_a_pool_that_an_earlier_version_stored_is_read(problems: list[LedgerProblem]):
    chains = [[[[5, 6], "step", None, -0.5, 0.8], [[7], "answer", "42", -0.25, 0.9]]]
    pool = pool_of(problems[0], {"tokens": 3, "prm_reads": 2, "starts": [3], "chains": chains})
    (chain,) = pool.chains
    assert (chain.path, chain.prefix, chain.tokens) == ((3, 0), (5, 6, 7), 3)
    assert (chain.answer, chain.logprob, [c.score for c in chain.candidates]) == ("42", -0.75, [0.8, 0.9])


async def test_what_was_measured_is_not_measured_again(bench: Bench, engines: Ready, problems: list[LedgerProblem]):
    fewer = Bench(work=bench.work, problems=problems[:10], seed=0)
    first = await pools(fewer, engines, 8, scored=True)
    assert first is not None
    drawn = await pools(bench, engines, 8, scored=True)
    assert drawn is not None
    assert drawn[:10] == first
    assert len(drawn) == 24
    assert engines.starts == 2
    assert await pools(bench, engines, 8, scored=True) == drawn
    assert engines.starts == 2


async def test_other_seeds_and_models_have_journals_of_their_own(bench: Bench, engines: Ready, scripted: Models):
    await searches(bench, engines, "beam", 4)
    other_seed = Bench(work=bench.work, problems=bench.problems, seed=1)
    await searches(other_seed, engines, "beam", 4)
    await searches(bench, Ready(ModelNames("scripted", "other"), scripted), "beam", 4)
    assert len(list(bench.work.iterdir())) == 3


async def test_a_journal_cut_off_by_a_kill_goes_on(bench: Bench, engines: Ready):
    whole = await searches(bench, engines, "greedy", None)
    (path,) = bench.work.iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    assert await searches(bench, engines, "greedy", None) == whole


async def test_taking_over_starts_nothing_and_leaves_nothing_behind(tmp_path: Path, engines: Ready, bench: Bench):
    stored = Bench(work=tmp_path / "work", problems=bench.problems, seed=0, stored_only=True)
    assert await pools(stored, engines, 8, scored=True) is None
    assert await searches(stored, engines, "greedy", None) is None
    assert engines.starts == 0
    assert not (tmp_path / "work").exists()


async def test_a_stored_search_is_the_search(bench: Bench, engines: Ready, scripted: Models):
    records = await searches(bench, engines, "beam", 4)
    setting = bench.setting("beam", 4)
    outcome = await evaluate(scripted, bench.problems, lambda p: setting.spec(root_seed(0, p.id)), 8, "beam")
    assert records == list(outcome.records)


async def test_another_prm_reads_the_same_chains(bench: Bench, engines: Ready):
    drawn = await pools(bench, engines, 8, scored=True)
    assert drawn is not None
    other = Ready(ModelNames("scripted", "other"), match(ScriptedEngine(), ScriptedEngine()))
    again = await rescored(bench, other, drawn, 4)
    assert again is not None
    for mine, first in zip(again, drawn, strict=True):
        kept = first.block(0, 4)
        assert [chain.answer for chain in mine.chains] == [chain.answer for chain in kept]
        assert [c.score for chain in mine.chains for c in chain.candidates] == pytest.approx(
            [c.score for chain in kept for c in chain.candidates]
        ), "it judges as the first one does"


async def test_curves_come_from_one_pool_and_pass_at_n_bounds_them(bench: Bench, engines: Ready):
    drawn = await pools(bench, engines, 8, scored=True)
    greedy = await searches(bench, engines, "greedy", None)
    assert drawn is not None
    assert greedy is not None
    hits = [float(record.is_right) for record in greedy]
    scaling = scaling_of(drawn, 8, hits, {4: hits}, 0)
    assert list(scaling.curves) == list(CURVES)
    assert list(scaling.curves["best_of_n"]) == [1, 4, 8]
    for name in ("best_of_n", "likelihood", "self_consistency"):
        assert scaling.at(name, 1) == pytest.approx(scaling.at("pass_at_k", 1))
        assert sum(scaling.at(name, 8)) <= sum(scaling.at("pass_at_k", 8))
    shares = weight_shares(drawn, 8, 8)
    assert shares[0.2] == scaling.at("best_of_n", 8), "w = 0.2 is the default"


def finding(value: float, low: float, high: float, sign: int = 1, figure: str = "+1.0") -> Finding:
    return Finding(claim="a above b", ours=Estimate(value, low, high), paper=figure, paper_sign=sign)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (finding(0.1, 0.05, 0.2), "agrees"),
        (finding(0.1, -0.05, 0.2), "agrees in sign, not beyond chance"),
        (finding(-0.1, -0.2, 0.05), "open"),
        (finding(0.0, 0.0, 0.0), "open"),
        (finding(-0.1, -0.2, -0.05), "disagrees"),
        (finding(-0.1, -0.2, -0.05, sign=-1), "agrees"),
        (finding(0.1, 0.05, 0.2, figure=""), "no figure in the paper"),
    ],
)
def test_a_finding_agrees_when_sign_and_interval_say_so(found: Finding, verdict: str):
    assert found.verdict == verdict
    assert bool(found.remark) == (verdict not in ("agrees", "no figure in the paper"))


def policy_result(name: str, greedy: Sequence[float], steps: Sequence[float]) -> PolicyResult:
    return PolicyResult(name, "f" * 12, greedy, [0.5 * hit for hit in greedy], steps)


def test_rounds_rewards_and_lengths_are_compared_by_problem():
    sft = policy_result("SFT", [0.0] * 50 + [1.0] * 50, [6.0] * 100)
    dpo = policy_result("DPO round 1", [0.0] * 30 + [1.0] * 70, [5.0] * 99 + [float("nan")])
    rounds = rounds_section([sft, dpo], 0)
    assert rounds.findings[0].ours == paired(dpo.greedy, sft.greedy, 0)
    assert rounds.findings[0].verdict == "agrees"
    steps = steps_section([sft, dpo], sft, 0)
    assert steps.findings[0].ours.value == -1.0
    assert [found.verdict for found in steps.findings] == ["agrees", "open"]
    rewards = rewards_section(sft, {"prm": dpo, "answer": sft, "outcome": sft}, 0)
    assert [found.verdict for found in rewards.findings if "pairs by PRM above" in found.claim] == [
        "agrees",
        "no figure in the paper",
        "agrees",
        "no figure in the paper",
    ]


def test_the_papers_figures_are_the_papers():
    assert paper.ahead("best_of_n", "self_consistency", 8) == "+10.4 (M3CoT), +12.1 (MMStar)"
    assert paper.gained("best_of_n", 8, 1) == "+13.7 (M3CoT), +10.2 (MMStar)"
    assert paper.reward_gap("prm", "outcome") == "+1.2, +0.8, +1.7 (MathVista, MMStar, M3CoT)"
    assert max(paper.STEP_WEIGHTS) == paper.STEP_WEIGHTS[2] == paper.M3COT["best_of_n"][3]


def part(accuracy: float) -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "ci_low": accuracy - 0.02,
        "ci_high": accuracy + 0.02,
        "unbalanced_accuracy": 0.9,
        "bad_found": 0.9,
        "false_alarms": 0.1,
        "auc": 0.95,
        "tags": 100,
    }


EVALUATION: dict[str, Any] = {
    "steps": part(0.92),
    "answers": part(0.95),
    "answers_minus_steps": {"difference": 0.03, "ci_low": 0.01, "ci_high": 0.05},
    "calibration": {"ece": 0.03, "ci_low": 0.02, "ci_high": 0.04, "brier": 0.07},
    "chains": 50,
    "problems": 25,
    "seed": 0,
    "commit": "abc",
    "checkpoints": {"prm": "def"},
}


def test_an_evaluation_is_shown_beside_the_papers_table():
    section = accuracy_section(EVALUATION)
    assert "95.0 % (93.0 - 97.0)" in section.tables[0].rows[1]
    assert [found.verdict for found in section.findings] == ["agrees"] * 3
    with pytest.raises(InputError, match="there is no 'steps' in it"):
        accuracy_section({"policy": {}})


def run(folder: Path, *arguments: str) -> int:
    short = ["--policy", "scripted", "--problems", "12", "--pool", "4"]
    places = ["--work", str(folder / "work"), "--report", str(folder / "docs" / "reproduce.md")]
    try:
        main(["bench", "reproduce", *short, *places, *arguments])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, problems: list[LedgerProblem]) -> None:
    monkeypatch.setattr("cos.checkpoints.heldout", lambda: problems)


@pytest.mark.usefixtures("small")
def test_one_command_writes_report_plots_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "evaluation.json").write_text(json.dumps(EVALUATION))
    (tmp_path / "done.json").write_text(json.dumps({"outcome": {"agreement": {"steps": 0.91}}}))
    given = ["--rounds", "scripted,scripted", "--rewards", "prm=scripted,outcome=scripted", "--prms", "exact=scripted"]
    (tmp_path / "remarks.md").write_text("The PRM is small.")
    given += ["--remarks", str(tmp_path / "remarks.md")]
    files = ["--evaluation", str(tmp_path / "evaluation.json"), "--labels", str(tmp_path / "done.json")]
    assert run(tmp_path, *given, *files, "--json") == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    report = (tmp_path / "docs" / "reproduce.md").read_text()
    assert facts["missing"] == {}
    assert set(facts["sections"]) == set(PARTS) - {"beam"}
    for section in ("Accuracy over the number", "Step weight", "SFT and rounds", "What chooses", "Monte-Carlo"):
        assert f"## {section}" in report
    assert "## Not measured" not in report
    assert "## Remarks\n\nThe PRM is small." in report
    assert "0.910" in report, "the label stage's agreement"
    for path in facts["plots"]:
        assert f"](reproduce/{Path(path).name})" in report
        with Image.open(path) as picture:
            assert picture.format == "PNG"
    for fact in ("seed 0", "12 held-out ledgers", "commit", "cores", "vLLM"):
        assert fact in report
    best = facts["sections"]["scaling"]["curves"]["best_of_n"]["4"]
    assert f"{100 * best['value']:.1f} %" in report, "the JSON repeats the report's figures"


@pytest.mark.usefixtures("small")
def test_parts_are_measured_alone_and_put_together_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(tmp_path, "--only", "scaling", "--json") == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(facts["missing"]) == {"rounds", "rewards", "steps", "labels", "accuracy"}
    assert "beam" not in facts["sections"]["scaling"]["curves"]
    report = (tmp_path / "docs" / "reproduce.md").read_text()
    assert "give the SFT policy and its rounds of DPO" in report
    assert run(tmp_path, "--only", "rounds", "--rounds", "a=scripted,b=scripted", "--json") == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"scaling", "weights", "rounds", "steps"} <= set(facts["sections"]), "scaling was taken over"
    assert list(facts["sections"]["rounds"]["policies"]) == ["a", "b"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "scalling"], "unknown part 'scalling'"),
        (["--rewards", "prm"], "'prm' is no NAME=FOLDER"),
        (["--rewards", "gold=x"], "unknown name 'gold'"),
        (["--evaluation", "no.json"], "--evaluation no.json: cannot be read"),
        (["--labels", "no.json"], "--labels no.json: cannot be read"),
        (["--remarks", "no.md"], "--remarks no.md: cannot be read"),
        (["--problems", "99"], "the held-out set has 24"),
        (["--top-p", "0"], "top_p = 0.0"),
    ],
)
def test_bad_input_is_named_before_anything_is_measured(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert run(tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


@pytest.mark.usefixtures("small")
def test_two_runs_in_one_work_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "work").mkdir()
    take_lock(tmp_path / "work")
    assert run(tmp_path) == 2
    assert "is in use by process" in capsys.readouterr().err


def test_names_of_policies_and_parts():
    assert parse_rounds("a,b,third=c") == (("SFT", "a"), ("DPO round 1", "b"), ("third", "c"))
    assert parse_rounds(None) == ()
    assert parse_named("x=1,y=2", "prms") == {"x": "1", "y": "2"}
    assert parse_parts(None) == frozenset(PARTS)
    assert parse_parts("beam, labels") == {"beam", "labels"}


def test_a_pool_without_chains_counts_as_wrong(problems: list[LedgerProblem]):
    empty = [Pool(problems[0], ())]
    scaling = scaling_of(empty, 4, [0.0], {}, 0)
    assert all(list(curve.values()) == [[0.0], [0.0]] for curve in scaling.curves.values())
