"""A researcher brings rows of their own, with every fault that rows can have: told, mended, trained on, measured."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from cos.search.grammars.cos import Step, render_segments
from cos.training.cli import app
from cos.training.config.check import check_recipe
from cos.training.config.recipe_file import load_recipe
from cos.training.data.rows import ChainRow, TagLabel, read_rows, write_rows
from tests.real.server_process import ROOT, fenced_blocks
from tests.training.tiny_models import STEPS, build
from tests.training.training_support import problems

GOOD = 24
REPLY = (
    "<|reasoning_start|><|reasoning_step_start|><|reasoning_step_name_start|>Read<|reasoning_step_name_end|>"
    "<|reasoning_step_thought_start|>It says 7.<|reasoning_step_thought_end|>"
)
RECIPE = """
name: mine
runs: {folder}/runs
leaks: report   # so few rows have to serve the policy, the PRM and the evaluation
stages:
  - {{stage: tokens, checkpoint: {folder}/base}}
  - {{stage: sft, model: tokens/model, data: [{folder}/right.jsonl, {folder}/published.jsonl], images: {folder},
     validation: {{data: [{folder}/held-out.jsonl], every: 2}}, epochs: 2, batch: 4,
     learning_rate: 1.0e-3, log_every: 1}}
  - {{stage: prm, model: tokens/model, chains: [{folder}/chains.jsonl], epochs: 2, batch: 4,
     learning_rate: 1.0e-3, log_every: 1}}
  - {{stage: pairs, chains: [{folder}/chains.jsonl], gap: 0.1}}
  - {{stage: dpo, policy: sft/model, pairs: [pairs/pairs.jsonl], epochs: 1, batch: 2, lora: {{rank: 4}}}}
  - {{stage: evaluate, prm: prm/model, chains: [{folder}/chains.jsonl], stored_scores: true}}
"""


def own_chains(folder: Path) -> list[ChainRow]:
    """Two chains for each of twelve questions, one right and one wrong, with labels and with scores."""
    rows: list[ChainRow] = []
    for problem in problems(folder / "pictures", GOOD // 2):
        for number, right in enumerate((True, False)):
            shown = int(problem.answer) - 15 + (not right)
            steps = (Step("Read row 1", f"Row 1 shows {shown}.", "It has 2 digits."),)
            tags = (TagLabel(float(right), right), TagLabel(float(right), right))
            score = 0.9 if right else 0.2
            row = ChainRow(
                id=f"{problem.id}/{number}",
                problem=problem,
                steps=steps,
                answer=problem.answer if right else "0",
                right=right,
                labels={"exact": tags},
                scores=(score, score),
            )
            rows.append(row)
    return rows


def faulty(good: dict[str, Any], folder: Path) -> dict[str, tuple[str, str]]:
    """Lines that are no rows of chains, or rows that cannot be trained on, and what is said of each."""
    Image.new("RGB", (8, 8)).save(folder / "pictures" / "cut.png")
    cut = folder / "pictures" / "cut.png"
    cut.write_bytes(cut.read_bytes()[:40])

    def row(change: Callable[[dict[str, Any]], Any], name: str) -> str:
        changed = json.loads(json.dumps(good))
        changed["id"], changed["problem"]["id"] = f"{name}/0", name
        change(changed)
        return json.dumps(changed)

    def talk(**keys: Any) -> str:
        turns = [{"from": "human", "value": "<image>\nHow much?"}, {"from": "gpt", "value": REPLY}]
        return json.dumps({"id": "t", "image": "0.png", "conversations": turns} | keys)

    return {
        "a picture that is missing": (row(lambda r: r["problem"].update(image="gone.png"), "f1"), "gone.png"),
        "a picture that is cut off": (row(lambda r: r["problem"].update(image=str(cut)), "f2"), "cut.png"),
        "too long": (row(lambda r: r["steps"][0].update(thought="1 " * 2000), "f3"), "tokens, more than"),
        "labels that do not line up": (row(lambda r: r["labels"]["exact"].pop(), "f4"), "labels by 'exact' for 2 tags"),
        "a score that is no number": (row(lambda r: r.update(scores=[float("nan"), 1.0]), "f5"), "NaN"),
        "a key nobody reads": (row(lambda r: r.update(anser="7"), "f6"), "anser"),
        "the same id": (json.dumps(good), "is on line 1 already"),
        "no JSON": ("{", "not JSON"),
        "no conversation": (talk(conversations=None), "conversations"),
        "a conversation of nulls": (talk(conversations=[None, None]), "conversations"),
        "a question that is null": (
            talk(conversations=[{"from": "human", "value": None}, {"from": "gpt", "value": REPLY}]),
            "value",
        ),
        "an unclosed step": (talk(), "step"),
        "several pictures": (talk(image=["0.png", "1.png"]), "image"),
    }


def test_own_rows_with_every_fault_are_told_left_out_trained_on_and_measured(tmp_path: Path) -> None:
    build(tmp_path / "base", "internvl", cos_tokens=False)
    good = own_chains(tmp_path)
    write_rows(tmp_path / "chains.jsonl", good)
    lines = (tmp_path / "chains.jsonl").read_text(encoding="utf-8").splitlines()
    faults = faulty(json.loads(lines[0]), tmp_path)
    (tmp_path / "chains.jsonl").write_text("\n".join([*lines, *(line for line, _ in faults.values())]) + "\n")
    right = [replace(row, labels={}, scores=None) for row in good if row.right]
    write_rows(tmp_path / "right.jsonl", right[:10])
    write_rows(tmp_path / "held-out.jsonl", right[10:])
    closed = "".join(render_segments(STEPS, "7"))
    turns = [{"from": "human", "value": "<image>\nWhat is written?"}, {"from": "gpt", "value": closed}]
    published = json.dumps({"id": "published", "image": "pictures/0.png", "conversations": turns})
    (tmp_path / "published.jsonl").write_text("\ufeff" + published + "\n", encoding="utf-8")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(RECIPE.format(folder=tmp_path))

    checked = CliRunner().invoke(app, ["check", str(recipe), "--json"])
    assert checked.exit_code == 2
    report = json.loads(checked.output.splitlines()[-1])
    told = {stage["name"]: " ".join(stage["faults"]) for stage in report["stages"]}
    lines_told = re.findall(r"chains\.jsonl:(\d+): (.*?)(?=\S*chains\.jsonl:|$)", told["prm"])
    by_line = {int(number): fault for number, fault in lines_told}
    assert sorted(by_line) == list(range(GOOD + 1, GOOD + 1 + len(faults)))
    for number, (name, (_, why)) in enumerate(faults.items(), start=GOOD + 1):
        assert why in by_line[number], name
    assert told["sft"] == told["tokens"] == ""

    refused = CliRunner().invoke(app, ["run", "--config", str(recipe)])
    assert refused.exit_code != 0
    assert not (tmp_path / "runs" / "prm" / "done.json").exists()
    done = CliRunner().invoke(app, ["run", "--config", str(recipe), "--skip-bad"], catch_exceptions=False)
    assert done.exit_code == 0, done.output

    outcomes = {
        name: json.loads((tmp_path / "runs" / name / "done.json").read_text())["outcome"]
        for name in ("sft", "prm", "pairs", "dpo", "evaluate")
    }
    assert (outcomes["sft"]["rows"], outcomes["sft"]["held_out"], outcomes["sft"]["skipped"]) == (11, 2, 0)
    assert outcomes["sft"]["losses"]["last"] < outcomes["sft"]["losses"]["first"]
    assert (outcomes["prm"]["rows"], outcomes["prm"]["skipped"]) == (GOOD, len(faults))
    assert outcomes["dpo"]["pairs"] == GOOD // 2
    skipped = (tmp_path / "runs" / "prm" / "skipped.txt").read_text()
    assert all(f"chains.jsonl:{number}:" in skipped for number in range(GOOD + 1, GOOD + 1 + len(faults)))
    assert len(list(read_rows(tmp_path / "right.jsonl", ChainRow))) == 10
    assert (tmp_path / "runs" / "dpo" / "model" / "config.json").is_file()
    assert (tmp_path / "runs" / "evaluate" / "evaluation.json").is_file()


def test_the_recipe_of_the_page_needs_nothing_but_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, *_ = fenced_blocks(ROOT / "docs" / "training.md", "yaml")
    build(tmp_path / "base", "internvl", cos_tokens=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(written.replace("OpenGVLab/InternVL3-1B-hf", "base"))
    recipe = load_recipe("mine.yaml")
    missing = check_recipe(recipe).faults
    assert {found for fault in missing for found in re.findall(r"data/[a-z-]+\.jsonl", fault)} == {
        f"data/{name}.jsonl" for name in ("chains", "held-out", "problems-prm", "problems", "problems-test")
    }
    asked = problems(tmp_path / "data" / "pictures", 4)
    for name in ("chains", "held-out", "problems-prm", "problems", "problems-test"):
        own = [replace(one, id=f"{name}-{one.id}", question=f"How much is it in {name}?") for one in asked]
        chains = [ChainRow(id=f"{one.id}/0", problem=one, steps=STEPS, answer=one.answer) for one in own]
        write_rows(tmp_path / "data" / f"{name}.jsonl", own if name.startswith("problems") else chains)
    assert check_recipe(recipe).faults == ()
