"""A researcher's way: own rows with faults are checked, and one recipe makes a policy and a PRM of the others."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cos.search.grammar import render_segments
from cos.search.types import Step
from cos.training.folder import DONE
from cos.training.rows import ChainRow, TagLabel, write_rows
from cos.training.run import app
from tests.training.tiny_models import build
from tests.training.training_support import problems

ROWS = 40
STEPS = (Step("Read row 1", "Row 1 shows 40.", "It has 2 digits."), Step("Add", "40 + 15 = 55.", "Both rows are used."))
RECIPE = """
name: own
runs: {folder}/runs
leaks: report
stages:
  - {{stage: tokens, checkpoint: {folder}/base}}
  - {{stage: sft, model: tokens/model, data: [{folder}/own.jsonl], steps: 3, batch: 4, precision: fp32}}
  - {{stage: prm, model: tokens/model, chains: [{folder}/judged.jsonl], steps: 3, batch: 4, precision: fp32}}
  - {{stage: pairs, chains: [{folder}/judged.jsonl]}}
  - {{stage: dpo, policy: sft/model, pairs: [pairs/pairs.jsonl], epochs: 1, batch: 2, lora: {{rank: 2}}}}
  - {{stage: evaluate, prm: prm/model, chains: [{folder}/judged.jsonl], stored_scores: true, calibration_share: 0}}
"""
FAULTS: dict[int, str] = {
    3: "cannot be read",
    7: "conversations",
    11: "not JSON",
    19: "tokens, more than the model's context of 1024",
    23: "NaN",
    31: "value",
}
"""What is wrong with which lines."""


def conversation(number: int, image: str, reply: str) -> dict[str, Any]:
    """A row as ShareGPT-Step-300K has them."""
    asked = {"from": "human", "value": "<image>\nWhat is the total of all rows?"}
    return {"id": f"own-{number}", "image": image, "conversations": [asked, {"from": "gpt", "value": reply}]}


def spoil(number: int, row: dict[str, Any], folder: Path) -> str:
    """The line of a row, with its fault where it has one."""
    match number:
        case 3:
            (folder / row["image"]).unlink()
        case 7:
            row["conversations"] = None
        case 11:
            return json.dumps(row)[:40]
        case 19:
            long = Step("Read", " ".join(map(str, range(600))), "It is long.")
            row["conversations"][1]["value"] = "".join(render_segments((long,), "55"))
        case 23:
            row["score"] = float("nan")
        case 31:
            row["conversations"][0]["value"] = None
        case _:
            pass
    return json.dumps(row)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare checkpoint, own rows with faults, chains with labels and scores, and a recipe."""
    folder = tmp_path_factory.mktemp("own")
    build(folder / "base", "internvl", cos_tokens=False)
    asked = problems(folder / "pictures", ROWS)
    reply = "".join(render_segments(STEPS, "55"))
    rows = [conversation(number, f"pictures/{number - 1}.png", reply) for number in range(1, ROWS + 1)]
    lines = [spoil(number, row, folder) for number, row in enumerate(rows, start=1)]
    (folder / "own.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    chains: list[ChainRow] = []
    for problem in asked[30:]:
        for number, good in enumerate((True, False)):
            chain = ChainRow(id=f"{problem.id}/{number}", problem=problem, steps=STEPS, answer="55" if good else "54")
            labels = (TagLabel(1.0, True), TagLabel(float(good), good), TagLabel(float(good), good))
            scores = (0.9, 0.8 if good else 0.3, 0.9 if good else 0.2)
            chains.append(replace(chain, labels={"exact": labels}, scores=scores))
    write_rows(folder / "judged.jsonl", chains)
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder))
    return folder


def test_the_check_names_every_fault_of_own_rows_by_line(folder: Path) -> None:
    told = CliRunner().invoke(app, ["check", str(folder / "recipe.yaml"), "--json"])
    assert told.exit_code == 2, told.output
    report = json.loads(told.stdout)
    faults = {int(fault.split("own.jsonl:")[1].split(":")[0]): fault for fault in report["faults"]}
    assert set(faults) == set(FAULTS)
    assert all(what in faults[line] for line, what in FAULTS.items()), faults
    sft = report["stages"][1]
    assert (sft["rows"], sft["skipped"]) == (ROWS - len(FAULTS), len(FAULTS))


def test_a_recipe_over_own_rows_leads_to_a_policy_and_a_prm_that_are_measured(folder: Path) -> None:
    told = CliRunner().invoke(app, ["run", "--config", str(folder / "recipe.yaml"), "--skip-bad", "--json"])
    assert told.exit_code == 0, (told.output, told.exception)
    done = {name: json.loads((folder / "runs" / name / DONE).read_text()) for name in ("sft", "prm", "dpo", "evaluate")}
    outcome = done["sft"]["outcome"]
    assert (outcome["rows"], outcome["skipped"], outcome["steps"]) == (ROWS - len(FAULTS), len(FAULTS), 3)
    assert done["prm"]["outcome"]["rows"] == 20
    assert done["dpo"]["outcome"]["rows"] == 10
    assert done["evaluate"]["outcome"]["answer_accuracy"] == 1.0
    assert all(one["digest"] for one in done.values())
