"""``cos train``: a recipe's stages in order, each once."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cos.search.errors import InputError
from cos.training.cli import STAGES, app, run_all
from cos.training.config.recipe_file import parse_recipe
from cos.training.data.rows import write_rows
from tests.training.stages.test_label import chain, slipped

RECIPE = """
name: small
runs: {runs}
stages:
  - stage: label
    name: first
    chains: [{chains}]
  - stage: label
    name: second
    chains: [first/chains.jsonl]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    write_rows(tmp_path / "chains.jsonl", [chain(tmp_path, 0), slipped(tmp_path)])
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.format(runs=tmp_path / "runs", chains=tmp_path / "chains.jsonl"))
    return file


def test_all_stages_run_in_order_and_what_is_done_is_left_out(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_all(str(recipe))
    first = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["stage"], line["chains"], line["kept"]) for line in first] == [("first", 2, 2), ("second", 2, 2)]
    run_all(str(recipe))
    again = capsys.readouterr()
    assert [json.loads(line) for line in again.out.splitlines()] == first
    assert again.err.count("done before") == 2


def test_one_stage_runs_by_its_name(recipe: Path) -> None:
    done = CliRunner().invoke(app, ["label", "first", "--config", str(recipe), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["good_share"] == {"exact": pytest.approx(0.583, abs=0.2)}


def test_a_kind_that_a_recipe_has_twice_must_be_named(recipe: Path) -> None:
    with pytest.raises(InputError, match="say which of first, second"):
        parse_recipe(recipe.read_text()).find("label")


def test_every_kind_of_stage_has_a_command() -> None:
    listed = CliRunner().invoke(app, ["--help"]).stdout
    assert all(kind in listed for kind in (*STAGES, "run", "heldout"))
