"""``cos eval`` and ``cos bench`` as they are typed, with scripted engines."""

import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from cos.clients.cli import main

SCRIPTED = ["--policy", "scripted"]


def run(*arguments: str) -> int:
    """The exit status of a command."""
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *SCRIPTED])
    return int(ended.value.code or 0)


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.usefixtures("small_heldout")
def test_an_evaluation_ends_in_one_json_object(capsys: pytest.CaptureFixture[str]):
    assert run("eval", "ledger", "--strategy", "bon", "--n", "4", "--problems", "12", "--against", "greedy") == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    expected = (
        "strategy n problems accuracy ci_low ci_high policy_tokens prm_reads seconds seed score temperature top_p"
    )
    assert set(f"{expected} policy prm commit checkpoints hardware by_kind difference against".split()) <= set(facts)
    assert (facts["strategy"], facts["n"], facts["problems"]) == ("best_of_n", 4, 12)
    assert facts["against"]["prm_reads"] == 0
    assert "best_of_n" in captured.err
    assert "Difference" in captured.err


@pytest.mark.usefixtures("small_heldout")
def test_the_same_command_gives_the_same_numbers(capsys: pytest.CaptureFixture[str]):
    found: list[dict[str, Any]] = []
    for _ in range(2):
        assert run("eval", "ledger", "--strategy", "beam", "--n", "4", "--problems", "8", "--seed", "5", "--json") == 0
        found.append({key: value for key, value in last_line(capsys).items() if not key.endswith(("seconds", "_s"))})
    assert found[0] == found[1]


@pytest.mark.usefixtures("small_heldout")
def test_the_grid_prints_rows_a_table_and_all_of_it(capsys: pytest.CaptureFixture[str]):
    chosen = "greedy,best_of_n,beam,greedy_prm,self_consistency"
    assert run("bench", "quality", "--problems", "3", "--strategies", chosen, "--widths", "1,4,8") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines[:13]] == json.loads(lines[-1])["rows"]
    assert sum(line.startswith("|") for line in lines) == 15


@pytest.mark.usefixtures("small_heldout")
def test_a_pool_reports_every_k(capsys: pytest.CaptureFixture[str]):
    assert run("eval", "ledger", "--pool", "4", "--problems", "6", "--json") == 0
    facts = last_line(capsys)
    assert [row["k"] for row in facts["rows"]] == [1, 2, 4]
    assert {"pass_at_k", "best_of_n", "likelihood", "product", "self_consistency"} <= set(facts["rows"][0])


@pytest.mark.usefixtures("small_heldout")
def test_cost_reports_its_ratios(capsys: pytest.CaptureFixture[str]):
    assert run("bench", "cost", "--problems", "4", "--n", "2") == 0
    captured = capsys.readouterr()
    assert {"computed_over_needed", "computed_over_shared", "naive_over_needed"} <= set(json.loads(captured.out))
    assert "rescan" in captured.err


@pytest.mark.usefixtures("small_heldout")
def test_serving_starts_a_server_by_itself_and_stops_it(capsys: pytest.CaptureFixture[str]):
    assert run("bench", "serving", "--concurrency", "1,2", "--requests", "4", "--n", "2") == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert facts["speedup"] > 0
    assert all(row["errors"] == 0 and row["tokens_per_s"] > 0 for row in facts["results"])
    assert facts["provenance"]["policy"] == "scripted"
    assert not [child for child in psutil.Process().children() if "cos.server.cli" in child.cmdline()]
    assert "Speed-up" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--problems", "1001"], "the held-out set has 1000"),
        (["--strategy", "bem"], "unknown strategy 'bem'"),
        (["--against", "bem"], "unknown strategy 'bem'"),
        (["--against", "beam@0"], "write NAME or NAME@N"),
        (["--prm", "none", "--score", "prm"], "needs a PRM"),
        (["--top-p", "0"], "top_p = 0.0"),
    ],
)
def test_bad_input_is_named_and_exits_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert run("eval", "ledger", *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.usefixtures("small_heldout")
def test_quality_can_be_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    picture = tmp_path / "quality.png"
    chosen = ["--strategies", "greedy,auto", "--widths", "2,4", "--plot", str(picture)]
    assert run("bench", "quality", "--problems", "4", *chosen, "--json") == 0
    rows = last_line(capsys)["rows"]
    assert [(row["strategy"], row["n"]) for row in rows] == [("greedy", 1), ("auto", 2), ("auto", 4)]
    assert all(row["latency_p95_s"] > 0 for row in rows)
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.usefixtures("small_heldout")
def test_a_picture_that_cannot_be_written_is_told_before_anything_runs(capsys: pytest.CaptureFixture[str]):
    assert run("bench", "quality", "--plot", "/nowhere/quality.png") == 2
    assert "in a folder that exists" in capsys.readouterr().err


@pytest.mark.usefixtures("small_heldout")
def test_speculation_tells_ratios_and_that_trees_are_the_same(capsys: pytest.CaptureFixture[str]):
    assert run("bench", "speculation", *SCRIPTED, "--problems", "4", "--n", "4") == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert facts["identical"] is True
    assert facts["searches"] == 4
    assert facts["ci_low"] <= facts["p50_ratio"] <= facts["ci_high"]
    assert facts["p95_ci_low"] <= facts["p95_ratio"] <= facts["p95_ci_high"]
    assert 0 <= facts["begun_share"] <= 1
    assert "4 of 4 searches" in captured.err


@pytest.mark.usefixtures("small_heldout")
def test_the_limit_makes_the_same_requests_again(capsys: pytest.CaptureFixture[str]):
    assert run("bench", "limit", "--concurrency", "1", "--rounds", "1", "--n", "2") == 0
    captured = capsys.readouterr()
    (row,) = json.loads(captured.out)["results"]
    assert row["efficiency"] > 0
    assert row["requests"] > 0
    assert "floor" in captured.err


@pytest.mark.usefixtures("small_heldout")
def test_the_barrier_comes_to_the_same_answers(capsys: pytest.CaptureFixture[str]):
    load = ["--concurrency", "2", "--rounds", "1", "--n", "4"]
    assert run("bench", "serving", "--against", "barrier", *load) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert facts["same_answers"] == 1
    assert {"speedup", "p95_ratio", "results"} <= set(facts)
    assert "barrier" in captured.err


@pytest.mark.usefixtures("small_heldout")
def test_too_few_problems_for_the_rounds_are_told(capsys: pytest.CaptureFixture[str]):
    assert run("bench", "limit", "--concurrency", "16", "--rounds", "100") == 2
    assert "100 rounds take" in capsys.readouterr().err


def test_the_orchestrator_counts_steps_and_bytes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cos.benchmarks.orchestrator.SEARCHES_A_LEVEL", 8)
    monkeypatch.setattr("cos.benchmarks.orchestrator.LIVE", 4)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "orchestrator", "--concurrency", "1,4", "--rounds", "1", "--n", "4"])
    facts = last_line(capsys)
    assert not ended.value.code
    assert facts["steps_per_s"] > 0
    assert facts["cost_ratio"] > 0
    assert 1_000 < facts["bytes_per_search"] < 64 * 2**10
    assert 1_000 < facts["text_bytes_per_search"] < 2**20
    assert facts["candidates_held_per_search"] > 1
