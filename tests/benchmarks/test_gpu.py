"""``cos bench gpu``: a plan under a limit of time. Here on scripted models, which take no time."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cos.benchmarks.gpu import pairs, process
from cos.benchmarks.gpu.contract import Tree, contract_facts
from cos.benchmarks.gpu.journal import Journal
from cos.benchmarks.gpu.pairs import (
    Pair,
    bytes_of,
    check_flags,
    check_machine,
    kept_in,
    parse_pairs,
    shape_of_size,
    write,
)
from cos.benchmarks.gpu.plan import MEASUREMENTS, parse_measurements
from cos.benchmarks.gpu.tables import SUMMARIES, told
from cos.clients.cli import main
from cos.engines.memory import GIB, Memory
from cos.evaluation.provenance import Facts
from cos.search.errors import InputError
from cos.training.widening.shape import SHAPES

GPU_PAGE = Path(__file__).parents[2] / "docs" / "gpu.md"


def run(out: Path, *arguments: str) -> Facts:
    """The results of a dry run over scripted models."""
    with pytest.raises(SystemExit) as ended:
        main(["bench", "gpu", "--dry-run", "--pairs", "scripted:scripted", "--out", str(out), *arguments])
    assert not ended.value.code
    return json.loads(out.read_text(encoding="utf-8"))


def test_a_dry_run_makes_every_measurement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = run(tmp_path / "gpu.json")
    entries = facts["pairs"]["scripted:scripted"]
    assert {name: entry["status"] for name, entry in entries.items()} == dict.fromkeys(MEASUREMENTS, "done")
    assert entries["serving"]["facts"].keys() == {"greedy", "auto", "best_of_n", "beam"}
    assert entries["ahead"]["facts"]["beam"]["identical"] is True
    assert facts["dry_run"] is True
    assert {"commit", "vllm", "hardware", "gpu", "environment", "server_flags", "seed", "limit_s"} <= facts.keys()
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1]) == facts
    assert "efficiency" in captured.err


def test_measurements_can_be_chosen(tmp_path: Path) -> None:
    entries = run(tmp_path / "gpu.json", "--only", "limit,memory")["pairs"]["scripted:scripted"]
    done = [name for name, entry in entries.items() if entry["status"] == "done"]
    assert done == ["widening", "engine_start", "limit", "memory"]
    assert entries["barrier"] == {"status": "left_out", "why": "it was not asked for"}
    assert entries["serving"] == {"status": "left_out", "why": "it was not asked for"}


def test_more_ledgers_than_there_are_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "gpu", "--dry-run", "--ledgers", "1001", "--out", str(tmp_path / "gpu.json")])
    assert ended.value.code
    assert "--ledgers 1001: the held-out set has 1000" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_chosen_is_told() -> None:
    with pytest.raises(InputError, match="--only limit,speed: 'speed' is none of widening, server_start"):
        parse_measurements("limit,speed")
    with pytest.raises(InputError, match="--pairs 7b: '7b' is no pair; write POLICY:PRM, each one of tiny, small, 7b"):
        parse_pairs("7b")
    with pytest.raises(InputError, match="'tiny:8b' is no pair"):
        parse_pairs("tiny:tiny,tiny:8b")
    assert parse_pairs("tiny:7b, tiny:7b") == (Pair("tiny", "7b"),)
    with pytest.raises(InputError, match="this vLLM is built for CPU, where models of that size take hours"):
        check_machine(parse_pairs("tiny:tiny,tiny:14b"))
    with pytest.raises(InputError, match="--server-flags '--x: No closing quotation"):
        check_flags("'--x")


def journal(path: Path, limit_s: float = 60) -> Journal:
    return Journal(
        path, {"seed": 0}, ["a:b"], ["first", "second", "third"], wanted=["first", "second"], limit_s=limit_s
    )


def giving(facts: Facts) -> Callable[[], Awaitable[Facts]]:
    async def work() -> Facts:
        return facts

    return work


async def failing() -> Facts:
    raise RuntimeError("out of memory")


async def late() -> Facts:
    raise TimeoutError("a request took too long")


async def never() -> Facts:
    await asyncio.sleep(3600)
    return {}


async def test_a_measurement_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    kept = journal(path)
    assert not await kept.measure("a:b", "first", failing)
    assert await kept.measure("a:b", "second", giving({"searches": 1}))
    assert not await kept.measure("a:b", "third", giving({}))
    entries = json.loads(path.read_text())["pairs"]["a:b"]
    assert (entries["first"]["status"], entries["first"]["error"]) == ("failed", "out of memory")
    assert entries["second"]["facts"] == {"searches": 1}
    assert entries["third"]["why"] == "it was not asked for"
    assert not await kept.measure("a:b", "first", late)
    assert kept.facts["pairs"]["a:b"]["first"]["error"] == "a request took too long"


async def test_what_runs_when_the_time_is_over_is_cut_and_the_rest_left_out(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    kept = journal(path, limit_s=0.05)
    assert json.loads(path.read_text())["pairs"]["a:b"].keys() == {"first", "second", "third"}
    assert not await kept.measure("a:b", "first", never)
    assert not await kept.measure("a:b", "second", giving({}))
    kept.leave_out("a:b", ["third"], "second")
    entries = json.loads(path.read_text())["pairs"]["a:b"]
    assert [entry["status"] for entry in entries.values()] == ["cut", "left_out", "left_out"]
    assert entries["second"]["why"] == "the time was over"
    assert entries["third"]["why"] == "second: the time was over"


async def test_what_runs_when_the_plan_is_interrupted_is_cut(tmp_path: Path) -> None:
    kept = journal(tmp_path / "gpu.json")
    running = asyncio.create_task(kept.measure("a:b", "first", never))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    entries = json.loads((tmp_path / "gpu.json").read_text())["pairs"]["a:b"]
    assert (entries["first"]["status"], entries["first"]["why"]) == ("cut", "it was interrupted")
    assert told("serving", entries["first"]) == "it was interrupted"


async def test_a_number_that_is_none_spoils_its_measurement_alone(tmp_path: Path) -> None:
    kept = journal(tmp_path / "gpu.json")
    assert not await kept.measure("a:b", "first", giving({"efficiency": float("nan")}))
    assert await kept.measure("a:b", "second", giving({}))


async def test_results_that_cannot_be_written_are_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--out .*gpu\.json: it cannot be written: No such file .*; give a file"):
        journal(tmp_path / "missing" / "gpu.json")
    (tmp_path / "folder").mkdir()
    kept = journal(tmp_path / "folder" / "gpu.json")
    shutil.rmtree(tmp_path / "folder")
    assert await kept.measure("a:b", "first", giving({"searches": 1})), "a disk that is full later ends nothing"
    assert kept.facts["pairs"]["a:b"]["first"]["facts"] == {"searches": 1}


def test_sigterm_leaves_neither_a_server_nor_checkpoints(tmp_path: Path) -> None:
    out, memory = tmp_path / "gpu.json", tmp_path / "memory"
    memory.mkdir()
    program = (
        "import sys\nfrom cos.benchmarks.gpu import pairs\nfrom cos.clients.cli import main\n"
        f"pairs.MEMORY = {str(memory)!r}\nmain(sys.argv[1:])"
    )
    plan = ("--pairs", "scripted:scripted", "--only", "serving", "--out", str(out))
    with subprocess.Popen([sys.executable, "-c", program, "bench", "gpu", *plan], env=temporary_in(memory)) as running:
        while not (out.is_file() and status(out, "server_start") == "done"):
            assert running.poll() is None
            time.sleep(0.05)
        assert list(memory.iterdir())
        running.terminate()
        assert running.wait() == 143
    assert status(out, "serving") == "cut"
    assert list(memory.iterdir()) == [], "the server's log was there, too"


def temporary_in(folder: Path) -> dict[str, str]:
    """An environment whose temporary files are there."""
    return {**os.environ, "TMPDIR": str(folder)}


def status(out: Path, name: str) -> str:
    return json.loads(out.read_text(encoding="utf-8"))["pairs"]["scripted:scripted"][name]["status"]


async def test_memory_of_a_gpu_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([10, 10, 79])
    monkeypatch.setattr(process, "gpu_memories", lambda: {0: Memory("a GPU", 80 * GIB, next(told) * GIB)})
    await process.until_free({0: Memory("a GPU", 80 * GIB, 79 * GIB)})
    assert next(told, None) is None
    await process.until_free({})


def tree(answer: str = "4", score: float | None = 0.5, written: int = 1) -> Tree:
    return Tree({(0,): (written,)}, {(0,): score}, answer, answer == "4")


def test_trees_are_compared_candidate_by_candidate() -> None:
    reference = {(name, "x"): tree() for name in ("greedy", "beam", "mcts", "bon")}
    trees = {
        ("greedy", "x"): tree(score=0.5001),
        ("beam", "x"): tree("5", written=2),
        ("mcts", "x"): tree(score=None),
        ("bon", "x"): tree(),
    }
    facts = contract_facts(trees, reference)
    assert (facts["searches"], facts["same_trees"], facts["same_answers"], facts["scores_missing"]) == (4, 3, 3, 1)
    assert facts["largest_score_gap"] == pytest.approx(1e-4)
    assert facts["unlike"] == ["beam x"]
    assert (facts["accuracy"], facts["reference_accuracy"]) == (0.75, 1.0)


def test_without_a_reference_nothing_is_said_to_be_the_same() -> None:
    facts = contract_facts({("greedy", "x"): tree()}, None)
    assert (facts["accuracy"], facts["same_trees"]) == (1.0, None)
    assert facts.keys() == contract_facts({("greedy", "x"): tree()}, {("greedy", "x"): tree()}).keys()
    assert told("contract", {"status": "done", "facts": facts}) == "100% right; nothing to compare with"


def test_checkpoints_are_written_once(tmp_path: Path) -> None:
    pair = Pair("small", "tiny")
    facts = write(pair, tmp_path, torch.float32, seed=0)
    assert (facts["policy"]["hidden_size"], facts["policy"]["num_hidden_layers"]) == (512, 9)
    assert facts["policy"]["num_attention_heads"] == facts["prm"]["num_attention_heads"] == 4
    (folder,) = tmp_path.iterdir()
    before = (folder / "model.safetensors").stat().st_mtime_ns
    write(pair, tmp_path, torch.float32, seed=0)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_sizes_are_those_of_the_models_that_they_name() -> None:
    assert {name: shape_of_size(name, "policy") for name in SHAPES} == dict(SHAPES)
    assert {name: (shape.hidden_size, shape.head_size) for name, shape in SHAPES.items()} == {
        "7b": (3584, 128),
        "14b": (5120, 128),
        "38b": (5120, 128),
    }


def test_checkpoints_in_memory_are_removed(tmp_path: Path) -> None:
    with kept_in(None) as made:
        assert made.is_dir()
    assert not made.exists()
    with kept_in(tmp_path) as given:
        assert given == tmp_path
        with pytest.raises(InputError, match="in use by process"), kept_in(tmp_path):
            pass
    with kept_in(tmp_path):
        pass
    assert tmp_path.is_dir()


def test_checkpoints_that_memory_has_no_room_for_are_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bytes_of(parse_pairs("7b:7b,7b:14b"), torch.bfloat16) == pytest.approx(52.4e9, rel=0.01)
    with kept_in(None, 1 << 60) as made:
        assert not made.is_relative_to(pairs.MEMORY)
    monkeypatch.setattr(pairs, "SPARE_BYTES", 1 << 60)
    with pytest.raises(InputError, match="give --folder on a disk that has room"):
        write(Pair("small", "tiny"), made.parent, torch.float32, seed=0)


def test_a_checkpoint_that_is_half_there_is_written_anew(tmp_path: Path) -> None:
    half = tmp_path / "policy-small-float32"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    write(Pair("small", "tiny"), tmp_path, torch.float32, seed=0)
    assert (half / "config.json").is_file()


def test_every_measurement_has_a_summary_and_a_row_of_the_page() -> None:
    assert SUMMARIES.keys() == set(MEASUREMENTS)
    page = GPU_PAGE.read_text(encoding="utf-8")
    assert [name for name in MEASUREMENTS if f"| `{name}` |" not in page] == []


def test_what_has_no_result_says_why() -> None:
    entries: list[dict[str, Any]] = [
        {"status": "failed", "error": "no room"},
        {"status": "left_out", "why": "the time was over"},
        {"status": "cut"},
    ]
    assert [told("limit", entry) for entry in entries] == [
        "no room",
        "the time was over",
        "the time was over while it ran",
    ]
