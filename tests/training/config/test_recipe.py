"""Recipes: the shipped ones load, and a mistake is told by file and key."""

from pathlib import Path

import pytest
import yaml

from cos.search.errors import InputError
from cos.training.config.recipe import folder_name
from cos.training.config.recipe_file import load_recipe, parse_recipe, shipped
from cos.training.data.sources import paths_of
from tests.training.training_support import context

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_recipe_loads_under_its_name(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.folder == Path("runs") / name


def test_the_paper_s_models_and_the_embedded_default_have_recipes() -> None:
    assert {"cos-tiny", "internvl2_5-8b", "internvl2_5-38b-prm", "llava-next-8b"} <= shipped().keys()


def test_stages_of_cos_tiny_build_on_each_other() -> None:
    recipe = load_recipe("cos-tiny")
    known: set[str] = set()
    for stage in recipe.stages:
        used = [getattr(stage, key, None) for key in ("model", "text_from", "towards", "policy")]
        used += paths_of(getattr(stage, "chains", ()))
        for path in filter(None, used):
            assert str(path).split("/")[0] in known, f"{folder_name(stage)} uses {path} before it is made"
        known.add(folder_name(stage))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("name: x\nstages: []\n", "give one at least"),
        ("name: x\nstages:\n  - {stage: sft, model: m, data: [a], steps: 1, lerning_rate: 1}\n", "lerning_rate"),
        ("name: x\nstages:\n  - {stage: sft, model: m, ledger: {digits: policy}, epochs: 1}\n", "give steps"),
        ("name: x\nstages:\n  - {stage: label, chains: [a], sources: [monte_carlo]}\n", "need a policy"),
        (
            "name: x\nstages:\n  - {stage: evaluate, prm: judge, chains: [a]}\n",
            "judge asks the policy: give one",
        ),
        ("- 1\n", "mapping"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(tmp_path: Path, text: str, what: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=what) as caught:
        load_recipe(file)
    assert str(file) in str(caught.value)


def test_an_unknown_recipe_is_told_which_there_are() -> None:
    with pytest.raises(InputError, match="cos-tiny"):
        load_recipe("cos-huge")


@pytest.mark.parametrize("path", sorted((ROOT / "training" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_takes_its_configurations(path: Path) -> None:
    from accelerate.commands.config.config_args import ClusterConfig

    found = ClusterConfig.from_yaml_file(str(path))
    assert found.num_processes == yaml.safe_load(path.read_text())["num_processes"]


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ("chains: [a], judging_layers: true, steps: 1", "which only a ledger has"),
        ("chains: [a], judging_heads: b, steps: 1", "are for judging layers"),
        ("chains: [a], stream_noise: 0.1, steps: 1", "are for judging layers"),
        ("ledger: {digits: prm}, labels: monte_carlo, steps: 1", "leave out labels and target"),
    ],
)
def test_keys_of_a_prm_that_would_go_unheard_are_refused(tmp_path: Path, keys: str, what: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"name: x\nstages:\n  - {{stage: prm, model: m, {keys}}}\n")
    with pytest.raises(InputError, match=what):
        load_recipe(file)


def test_a_checkpoint_is_a_folder_or_a_hub_name(tmp_path: Path) -> None:
    where = context(tmp_path, "sft")
    assert where.checkpoint("OpenGVLab/InternVL2_5-8B-MPO-hf") == "OpenGVLab/InternVL2_5-8B-MPO-hf"
    assert where.checkpoint("cos-tiny") == "cos-tiny"
    assert where.checkpoint("tokens/model") == str(tmp_path / "tokens" / "model"), "another stage's, not there yet"
    assert where.checkpoint(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("seed", "4294967296", "less than or equal to"),
        ("seed", "true", "true and false mean nothing here"),
        ("threads", "100000", "less than or equal to"),
        ("sft.steps", "true", "true and false mean nothing here"),
        ("sft.learning_rate", "true", "true and false mean nothing here"),
        ("sft.learning_rate", "1.0e+300", "less than or equal to"),
        ("sft.learning_rates.vision", "1.0e+300", "less than or equal to"),
        ("sft.length_buckets", "[-5, 8]", "greater than or equal to 1"),
        ("sft.length_buckets", "[]", "at least 1 item"),
        ("sft.data", "rows.jsonl", "a list is needed"),
    ],
)
def test_a_number_that_means_nothing_is_refused_by_its_key(key: str, value: str, told: str) -> None:
    text = "name: odd\nstages:\n  - {stage: sft, model: m, data: [d], steps: 1}\n"
    with pytest.raises(InputError, match=rf"{key.rpartition('.')[2]}.*: .*{told}"):
        parse_recipe(text, overrides=(f"{key}={value}",))
