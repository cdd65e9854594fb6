"""The recipe of the embedded default in one go, scaled down: what each stage leaves behind is what later ones read.

Two steps of training make no policy, so that the first step SFT starts from the shipped one, at a rate that leaves it
as it is; all other stages begin with what the recipe says.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cos.checkpoints import embedded
from tests.real.server_process import ROOT

pytestmark = pytest.mark.real

SMALL = {
    "steps": 2,
    "batch": 4,
    "save_every": 1,
    "compile": False,
    "learning_rate": 1e-6,
    "row_batches": 1,
    "each": 4,
    "problems": 8,
    "continuations": 2,
    "rounds": 1,
    "gap": 0.0,
    "least": 0.0,
    "n": 2,
}
"""What the recipe's values become, wherever they stand."""


def small(value: Any) -> Any:
    """A part of the recipe, scaled down."""
    if isinstance(value, list):
        return [small(part) for part in value]
    if not isinstance(value, dict):
        return value
    return {
        name: SMALL[name] if name in SMALL and not isinstance(part, dict) else small(part)
        for name, part in value.items()
    }


def test_the_recipe_of_the_embedded_default_runs_from_its_first_stage_to_its_last(tmp_path: Path) -> None:
    recipe = small(yaml.safe_load((ROOT / "training" / "recipes" / "cos-tiny.yaml").read_text(encoding="utf-8")))
    names = [stage.get("name", stage["stage"]) for stage in recipe["stages"]]
    recipe["stages"][names.index("sft-1")]["model"] = str(embedded("policy"))
    for stage in recipe["stages"]:
        if stage["stage"] == "sft":
            stage["checked"] = 16
        if stage["stage"] == "sight":
            stage["averaged_over"] = 512
    recipe |= {"runs": str(tmp_path / "runs"), "threads": 1}
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    cos = f"{sys.executable.rsplit('/', 1)[0]}/cos"
    command = [cos, "train", "run", "--config", str(config)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=580, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]

    folder = tmp_path / "runs"
    done = {name: json.loads((folder / name / "done.json").read_text()) for name in names}
    assert all(facts["peak_rss_mib"] < 8 * 1024 for facts in done.values())
    assert (folder / "cos-tiny-policy" / "model" / "model.safetensors").exists()
    assert (folder / "cos-tiny-prm" / "model" / "model.safetensors").exists()
    assert done["rounds"]["outcome"]["round-1"]["pairs"]["pairs"] > 0
    assert {"step_accuracy", "answer_accuracy", "ece"} <= set(done["evaluate"]["outcome"])
