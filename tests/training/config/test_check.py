"""``cos train check`` and what is found before anything runs: references, names, overrides."""

import json
from pathlib import Path
from typing import Literal

import pytest
from typer.testing import CliRunner

from cos.checkpoints import embedded
from cos.search.errors import InputError
from cos.training.cli import app, run_all
from cos.training.config.check import check_recipe
from cos.training.config.recipe import SftConfig
from cos.training.config.recipe_file import load_recipe, parse_recipe
from cos.training.data.sources import paths_of
from cos.training.learning.encode import load_checkpoint
from tests.training.tiny_models import build
from tests.training.training_support import write_chains, write_pairs

ROLES: tuple[Literal["policy", "prm"], ...] = ("policy", "prm")
RECIPE = """
name: own
runs: {folder}/runs
stages:
  - {{stage: tokens, checkpoint: {folder}/base}}
  - {{stage: sft, model: tokens/model, data: [{folder}/chains.jsonl], steps: 4, batch: 2, precision: fp32}}
  - {{stage: dpo, policy: sft/model, pairs: [{folder}/pairs.jsonl], epochs: 1, batch: 2, lora: {{rank: 4}}}}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("own") / "base", "internvl", cos_tokens=False)


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """A recipe with data and a base checkpoint without the step tokens."""
    (tmp_path / "base").symlink_to(base)
    write_chains(tmp_path / "chains.jsonl", 6)
    write_pairs(tmp_path / "pairs.jsonl", 6)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=tmp_path))
    return tmp_path


def test_a_recipe_is_looked_through_before_anything_has_run(folder: Path, base: Path) -> None:
    report = check_recipe(load_recipe(folder / "recipe.yaml"))
    tokens, sft, dpo = report.stages
    assert report.faults == ()
    assert [one.state for one in tokens.references] == ["here"]
    assert {one.name: one.state for one in sft.references}["tokens/model"] == "planned"
    assert sft.rows == dpo.rows == 6
    assert sft.tokens is not None
    assert 20 < sft.tokens.minimum <= sft.tokens.median <= sft.tokens.p95 <= sft.tokens.maximum <= 1024
    assert sft.pictures is not None
    assert sft.pictures.smallest == (56, 56)
    assert sft.memory is not None
    assert dpo.memory is not None
    model, _ = load_checkpoint(base)
    assert sft.memory.parameters == sum(weights.numel() for weights in model.parameters())
    assert dpo.memory.trained < sft.memory.trained < sft.memory.parameters
    assert not (folder / "runs").exists(), "looking leaves nothing behind"


def test_the_report_is_a_table_or_json(folder: Path) -> None:
    told = CliRunner().invoke(app, ["check", str(folder / "recipe.yaml")])
    assert told.exit_code == 0, told.output
    assert "6 of 6" in told.stdout
    assert "no faults" in told.stdout
    found = CliRunner().invoke(app, ["check", str(folder / "recipe.yaml"), "--json"])
    assert [stage["name"] for stage in json.loads(found.stdout)["stages"]] == ["tokens", "sft", "dpo"]


def test_faults_of_all_stages_are_listed_with_exit_code_2(folder: Path) -> None:
    (folder / "pictures" / "2.png").unlink()
    with (folder / "chains.jsonl").open("a") as file:
        file.write("[]\n")
    recipe = (folder / "recipe.yaml").read_text().replace("policy: sft/model", "policy: sft/modell")
    (folder / "recipe.yaml").write_text(recipe)
    told = CliRunner().invoke(app, ["check", str(folder / "recipe.yaml")])
    assert told.exit_code == 2, told.output
    assert "stage 'sft': " in told.stdout
    assert "chains.jsonl:7" in told.stdout
    assert "chains.jsonl:3: row 'p2/0': picture" in told.stdout
    assert "pairs.jsonl:3: row 'p2/0 > p2/1': picture" in told.stdout
    assert "did you mean 'sft/model'?" in told.stdout


def test_questions_that_two_roles_share_are_told_beforehand(folder: Path) -> None:
    recipe = (folder / "recipe.yaml").read_text()
    prm = f"  - {{stage: prm, model: tokens/model, chains: [{folder}/chains.jsonl], steps: 1}}\n"
    (fault,) = check_recipe(parse_recipe(recipe + prm)).faults[1:]
    assert fault.startswith("stage 'prm' (PRM training) and stage 'dpo' (policy training) share 6 questions")
    assert check_recipe(parse_recipe(recipe + prm + "leaks: report\n")).faults == ()


def test_one_step_is_tried_beside_the_run(folder: Path) -> None:
    trained = build(folder / "ready", "internvl")
    stages = f"  - {{stage: sft, model: {trained}, data: [{folder}/chains.jsonl], epochs: 2, batch: 2}}\n"
    recipe = parse_recipe(f"name: own\nruns: {folder}/runs\nstages:\n{stages}")
    (sft,) = check_recipe(recipe, step=True).stages
    assert sft.faults == ()
    assert sft.step is not None
    assert sft.step.loss is not None
    assert sft.step.peak_gib > 0
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("was", "instead", "told"),
    [
        ("tokens/model", "tokens/modell", "stage 'sft': model 'tokens/modell': .* did you mean 'tokens/model'"),
        ("tokens/model", "token/model", "did you mean 'tokens/model'"),
        ("tokens/model", "./chekpoint", "model './chekpoint': there is no"),
        ("sft/model", "dpo/model", "the stage 'dpo' does not come before this one"),
        ("tokens/model", "tokens/chains.jsonl", "the stage 'tokens' writes tokens/model"),
        ("chains.jsonl", "chain.jsonl", "stage 'sft': data '.*chain.jsonl': .* did you mean '.*chains.jsonl'"),
        ("/base", "/bas", "stage 'tokens': checkpoint '.*/bas': .* did you mean '.*/base'"),
        ("pairs.jsonl", "pictures", "stage 'dpo': pairs '.*pictures': .* is no file"),
    ],
)
def test_what_a_recipe_names_is_looked_for_before_anything_runs(
    folder: Path, was: str, instead: str, told: str
) -> None:
    file = folder / "recipe.yaml"
    file.write_text(file.read_text().replace(was, instead))
    with pytest.raises(InputError, match=told):
        run_all(str(file))
    assert not (folder / "runs").exists()


def test_a_name_near_one_that_is_here_is_not_asked_of_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "models" / "InternVL2_5-8B").mkdir(parents=True)
    text = (folder / "recipe.yaml").read_text()
    for name, near in (("bse", "base"), ("models/InternVL2_5-8b", "models/InternVL2_5-8B")):
        with pytest.raises(InputError, match=f"checkpoint '{name}': .* did you mean '{near}'"):
            run_all_of(folder, text.replace(f"{folder}/base", name))
    report = check_recipe(parse_recipe(text.replace(f"{folder}/base", "models/InternVL2_5-38B")))
    assert [one.state for one in report.stages[0].references] == ["hub"]


def run_all_of(folder: Path, text: str) -> None:
    (folder / "other.yaml").write_text(text)
    run_all(str(folder / "other.yaml"))


def test_a_single_stage_names_the_one_that_has_to_run_before(folder: Path) -> None:
    done = CliRunner().invoke(app, ["sft", "--config", str(folder / "recipe.yaml")])
    assert isinstance(done.exception, InputError)
    assert "run the stage 'tokens' first" in str(done.exception)


@pytest.mark.parametrize("name", ["..", ".", "...", "a/b", '""', '"a b"', '"a\\n"'])
def test_a_name_that_is_no_folder_s_is_refused(folder: Path, name: str) -> None:
    text = (folder / "recipe.yaml").read_text()
    with pytest.raises(InputError, match="a name is a folder's"):
        parse_recipe(text.replace("stage: tokens,", f"stage: tokens, name: {name},"))
    with pytest.raises(InputError, match="a name is a folder's"):
        parse_recipe(text.replace("name: own", f"name: {name}"))


def test_a_recipe_that_is_not_utf_8_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes("name: x\n# für\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"is not UTF-8 text \(line 2: byte 0xfc\); save it as UTF-8"):
        load_recipe(tmp_path / "recipe.yaml")


def test_keys_can_be_given_on_the_command_line(folder: Path) -> None:
    given = ["sft.learning_rate=1e-5", "dpo.lora.rank=8", "sft.data=[a.jsonl, b.jsonl]", "seed=7", "sft.lora={rank: 2}"]
    recipe = load_recipe(folder / "recipe.yaml", given)
    _, sft, dpo = recipe.stages
    assert isinstance(sft, SftConfig)
    assert (sft.learning_rate, paths_of(sft.data), recipe.seed) == (1e-5, ("a.jsonl", "b.jsonl"), 7)
    assert sft.lora is not None
    assert sft.lora.rank == 2
    assert getattr(dpo, "lora").rank == 8  # noqa: B009 - a union


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("sft.lr=1e-5", "sft has no key 'lr'; did you mean 'learning_rate'"),
        ("sft.lerning_rate=1", "did you mean 'learning_rate'"),
        ("dpo.lora.rnk=1", "dpo.lora has no key 'rnk'; did you mean 'rank'"),
        ("stf.steps=1", "no stage 'stf'; it has tokens, sft, dpo; did you mean 'sft'"),
        ("sead=1", "a recipe has no key 'sead'; did you mean 'seed'"),
        ("sft.steps", "give STAGE.KEY=VALUE"),
        ("sft.steps=[1", "the value is not YAML"),
        ("sft.steps=many", r"sft\): steps: .*many"),
    ],
)
def test_an_override_that_fits_nothing_is_named_with_what_is_near(folder: Path, given: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        load_recipe(folder / "recipe.yaml", [given])


def test_an_unknown_key_in_a_recipe_is_named_with_what_is_near(folder: Path) -> None:
    text = (folder / "recipe.yaml").read_text()
    with pytest.raises(InputError, match=r"stage 2 \(sft\): lerning_rate: .*did you mean 'learning_rate'"):
        parse_recipe(text.replace("steps: 4", "steps: 4, lerning_rate: 1"))
    with pytest.raises(InputError, match=r"lora.rnk: .*did you mean 'rank'"):
        parse_recipe(text.replace("{rank: 4}", "{rnk: 4}"))


def test_held_out_rows_are_looked_through_and_kept_apart_from_trained_ones(folder: Path) -> None:
    file = folder / "recipe.yaml"
    text = file.read_text().replace("lora: {rank: 4}", f"validation: {{data: [{folder}/held.jsonl]}}")
    with pytest.raises(InputError, match=r"stage 'dpo': validation.data '.*held.jsonl': there is no"):
        run_all_of(folder, text)
    (folder / "held.jsonl").write_bytes((folder / "pairs.jsonl").read_bytes())
    (fault,) = check_recipe(parse_recipe(text)).faults
    assert fault.startswith("stage 'dpo': 6 of 6 held-out questions are trained on, too")


def test_labels_that_nobody_will_have_given_are_told_beforehand(folder: Path) -> None:
    """Labelled by one source and taught by another; chains that are no ledgers, for the exact checker."""
    asked = f"problems: {{data: [{folder}/chains.jsonl]}}"
    rollout = f"  - {{stage: rollout, policy: sft/model, {asked}}}\n"
    label = "  - {stage: label, chains: [rollout/chains.jsonl], sources: [SOURCES], policy: sft/model}\n"
    prm = "  - {stage: prm, model: tokens/model, chains: [label/chains.jsonl], epochs: 1}\n"
    own = prm.replace("prm,", "prm, name: own, labels: judge,").replace("label/chains", f"{folder}/chains")
    text = (folder / "recipe.yaml").read_text() + rollout + label + prm + own + "leaks: report\n"
    (drawn, taught) = check_recipe(parse_recipe(text.replace("SOURCES", "monte_carlo"))).faults
    assert drawn == (
        "stage 'prm': labels: the stage 'label' labels by monte_carlo and not by 'exact'; set labels: monte_carlo"
    )
    assert taught == (
        "stage 'own': labels: none of 6 chains has labels by 'judge' (they have exact); set labels: exact"
    )
    (exact, _) = check_recipe(parse_recipe(text.replace("SOURCES", "exact"))).faults
    assert exact.startswith("stage 'rollout': sources: problem 'p0' is no ledger")
    assert exact.endswith("have other chains labelled by monte_carlo or a judge")


def test_the_embedded_pair_is_trained_on_by_its_name(folder: Path) -> None:
    stages = f"  - {{stage: sft, model: cos-tiny, data: [{folder}/chains.jsonl], steps: 1}}\n"
    stages += f"  - {{stage: prm, model: cos-tiny, chains: [{folder}/chains.jsonl], steps: 1}}\n"
    report = check_recipe(parse_recipe(f"name: own\nruns: {folder}/runs\nleaks: report\nstages:\n{stages}"))
    assert report.faults == ()
    for stage, role in zip(report.stages, ROLES, strict=True):
        (model,) = (one for one in stage.references if one.key == "model")
        assert (model.state, model.path) == ("here", embedded(role))
        assert stage.memory is not None
        loaded, _ = load_checkpoint(embedded(role))
        assert sum(weights.numel() for weights in loaded.parameters()) == stage.memory.parameters
