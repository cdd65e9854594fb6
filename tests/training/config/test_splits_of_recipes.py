"""Recipes whose stages would share digits or questions."""

from collections.abc import Sequence

import pytest

from cos.search.errors import InputError
from cos.training.config.recipe import SftConfig
from cos.training.config.recipe_file import load_recipe, parse_recipe

SFT, READER = "{stage: sft, model: m, ledger: {digits: policy}, steps: 1}", "name: reader, trains: prm"
DRAWN = "{stage: rollout, policy: m, problems: {ledger: {digits: policy, problems: 2}}}"


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ([SFT, SFT.replace("}, s", "}, " + READER + ", s")], r"policy training \(sft\) and PRM training \(reader\)"),
        ([SFT, "{stage: prm, model: m, ledger: {digits: policy}, steps: 1}"], r"\(sft\) and PRM training \(prm\)"),
        (["{stage: sight, role: policy, steps: 1}", SFT.replace("steps", READER + ", steps")], r"training \(sight\)"),
        (
            [SFT, "{stage: evaluate, policy: m, problems: {ledger: {digits: policy, problems: 2}}}"],
            r"policy training \(sft\) and evaluation \(evaluate\)",
        ),
        (
            [
                "{stage: prm, model: m, ledger: {digits: prm}, steps: 1}",
                "{stage: rounds, policy: m, rollout: {problems: {ledger: {digits: prm, problems: 2}}}, pairs: {}, "
                "dpo: {steps: 1}}",
            ],
            r"digits 'prm' serve PRM training \(prm\) and policy training \(rounds\)",
        ),
        ([SFT, DRAWN, "{stage: prm, model: m, chains: [rollout/chains.jsonl], steps: 1}"], r"PRM training \(prm\)"),
        (
            [
                SFT,
                DRAWN,
                "{stage: label, chains: [rollout/chains.jsonl]}",
                "{stage: evaluate, prm: m, chains: [label/chains.jsonl]}",
            ],
            r"evaluation \(evaluate\)",
        ),
    ],
)
def test_a_recipe_whose_digits_serve_two_roles_is_refused_before_it_runs(stages: Sequence[str], told: str) -> None:
    text = "name: x\n{more}stages:\n" + "".join(f"  - {stage}\n" for stage in stages)
    with pytest.raises(InputError, match=told) as caught:
        parse_recipe(text.replace("{more}", ""), "recipe.yaml")
    assert str(caught.value).startswith("recipe.yaml: digits '")
    parse_recipe(text.replace("{more}", "leaks: report\n"))


@pytest.mark.parametrize(
    "stages",
    [
        [
            SFT,
            DRAWN,
            "{stage: pairs, prm: m, chains: [rollout/chains.jsonl]}",
            "{stage: dpo, policy: m, pairs: [pairs/pairs.jsonl], steps: 1}",
        ],
        [SFT, DRAWN, "{stage: evaluate, prm: m, chains: [other.jsonl], seen_chains: [rollout/chains.jsonl]}"],
    ],
)
def test_a_recipe_may_use_its_digits_twice_for_one_role(stages: Sequence[str]) -> None:
    parse_recipe("name: x\nstages:\n" + "".join(f"  - {stage}\n" for stage in stages))


def test_the_folder_of_the_records_is_no_stage_s() -> None:
    with pytest.raises(InputError, match="name the stage otherwise"):
        parse_recipe("name: x\nstages:\n  - {stage: tokens, name: splits, checkpoint: m}\n")


def test_the_reader_of_cos_tiny_counts_as_prm_training() -> None:
    stage = load_recipe("cos-tiny").find("reader")
    assert isinstance(stage, SftConfig)
    assert (stage.trains, stage.ledger and stage.ledger.digits) == ("prm", "prm")
