"""Adapters over weights in few bits (QLoRA): what is rounded, what is learnt, and what the model is made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from cos.search.errors import InputError
from cos.training.config.check import check_recipe
from cos.training.config.keys import TrainingKeys
from cos.training.config.recipe import DpoConfig, PrmConfig, Recipe, SftConfig
from cos.training.data.rows import ChainRow, read_rows, write_rows
from cos.training.learning.parts import part_of
from cos.training.learning.quantized import load_base
from cos.training.runs.metrics import read_metrics
from cos.training.stages.dpo import run_dpo
from cos.training.stages.prm_training import run_prm
from cos.training.stages.sft import run_sft
from tests.training.learning.test_lora import moved, token_ids
from tests.training.tiny_models import ARCHITECTURES, Architecture, build
from tests.training.training_support import context, saved_logits, write_chains, write_pairs

ROWS = 4
KEYS: dict[str, Any] = {"steps": 2, "batch": ROWS, "learning_rate": 1e-2, "log_every": 1, "precision": "fp32"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    write_chains(folder / "chains.jsonl", ROWS)
    write_pairs(folder / "pairs.jsonl", ROWS)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Mapping[Architecture, Path]:
    pytest.importorskip("bitsandbytes")
    return {kind: build(tmp_path_factory.mktemp(kind), kind) for kind in ARCHITECTURES}


def train(stage: str, model: Path, data: Path, where: Any, **lora: Any) -> list[dict[str, Any]]:
    """Runs a stage, and gives its metrics."""
    given = {**KEYS, "lora": {"rank": 2, "alpha": 4, **lora}}
    chains, pairs = [str(data / "chains.jsonl")], [str(data / "pairs.jsonl")]
    match stage:
        case "sft":
            run_sft(SftConfig.model_validate({"model": str(model), "data": chains, **given}), where)
        case "prm":
            run_prm(PrmConfig.model_validate({"model": str(model), "chains": chains, **given}), where)
        case _:
            run_dpo(DpoConfig.model_validate({"policy": str(model), "pairs": pairs, "nll_weight": 0.0, **given}), where)
    return [entry for entry in read_metrics(where.folder) if "loss" in entry]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_of_adapters_over_four_bits_has_its_checkpoints_weights_and_the_adapters_in_them(
    architecture: Architecture, checkpoints: Mapping[Architecture, Path], data: Path, tmp_path: Path
) -> None:
    where = context(tmp_path, "sft")
    found = train("sft", checkpoints[architecture], data, where, quantize="nf4")
    plain = train("sft", checkpoints[architecture], data, context(tmp_path, "plain"))
    assert 0 < abs(found[0]["loss"] - plain[0]["loss"]) < 0.05, "the weights are rounded while it learns"
    assert found[1]["loss"] < found[0]["loss"]
    changes = moved(checkpoints[architecture], where.folder / "model")
    assert {part_of(name) for name in changes} == {"text", "projector"}
    for name, change in changes.items():
        if name.endswith("_proj.weight") and part_of(name) == "text":
            assert torch.linalg.matrix_rank(change.double(), rtol=1e-4) <= 2, "nothing but the adapter was added"
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            rows = set(change.any(1).nonzero().flatten().tolist())
            assert rows <= token_ids(checkpoints[architecture])
    config = json.loads((where.folder / "model" / "config.json").read_text())
    assert "quantization_config" not in config
    assert torch.isfinite(saved_logits(where.folder / "model")).all()
    assert not [*where.folder.glob(".adapters-*")]


@pytest.mark.parametrize(("stage", "quantize"), [("prm", "int8"), ("dpo", "nf4")])
def test_every_stage_of_rows_learns_over_few_bits(
    stage: str, quantize: str, checkpoints: Mapping[Architecture, Path], data: Path, tmp_path: Path
) -> None:
    where = context(tmp_path, stage)
    found = train(stage, checkpoints["internvl"], data, where, quantize=quantize)
    assert found[1]["loss"] < found[0]["loss"]
    if stage == "dpo":
        assert found[0]["loss"] == pytest.approx(0.6931, abs=1e-4), "the reference is rounded alike"
    assert torch.isfinite(saved_logits(where.folder / "model")).all()


def test_text_layers_of_another_checkpoint_and_few_bits_are_refused(
    checkpoints: Mapping[Architecture, Path], data: Path, tmp_path: Path
) -> None:
    model = str(checkpoints["internvl"])
    given = {**KEYS, "lora": {"quantize": "nf4"}, "model": model, "text_from": model}
    with pytest.raises(InputError, match="text_from gives text layers in full"):
        run_sft(SftConfig.model_validate({"data": [str(data / "chains.jsonl")], **given}), context(tmp_path, "sft"))


def test_a_run_over_few_bits_that_is_measured_goes_on_as_one_that_is_not(
    checkpoints: Mapping[Architecture, Path], data: Path, tmp_path: Path
) -> None:
    rows = list(read_rows(data / "chains.jsonl", ChainRow))
    write_rows(tmp_path / "taught.jsonl", rows[:2])
    write_rows(tmp_path / "held.jsonl", rows[2:])
    given = {**KEYS, "steps": 3, "lora": {"quantize": "nf4"}, "model": str(checkpoints["internvl"])}
    given["data"] = [str(tmp_path / "taught.jsonl")]
    found: list[list[float]] = []
    for name, more in (
        ("plain", {}),
        ("measured", {"validation": {"data": [str(tmp_path / "held.jsonl")], "every": 1}}),
    ):
        where = context(tmp_path, name)
        run_sft(SftConfig.model_validate({**given, **more}), where)
        found.append([entry["loss"] for entry in read_metrics(where.folder) if "loss" in entry])
    assert found[0] == found[1]
    assert len(found[0]) == 3


def test_what_four_bits_save_is_told_before_it_runs(
    checkpoints: Mapping[Architecture, Path], data: Path, tmp_path: Path
) -> None:
    stage = {"stage": "sft", "model": str(checkpoints["internvl"]), "data": [str(data / "chains.jsonl")], **KEYS}
    sizes: list[float] = []
    for lora in ({}, {"quantize": "nf4"}):
        given = {"name": "mine", "runs": str(tmp_path), "stages": [{**stage, "lora": lora}]}
        memory = check_recipe(Recipe.model_validate(given)).stages[0].memory
        assert memory is not None
        sizes.append(memory.weights_gib * 2**30)
    held, _ = load_base(checkpoints["internvl"], TrainingKeys.model_validate({"steps": 1, "lora": {"quantize": "nf4"}}))
    packed = [module.weight for module in cast(Any, held).modules() if type(module).__name__ == "Linear4bit"]
    assert len(packed) == 2 * 7, "the text layers, and nothing else"
    assert sizes[0] - sizes[1] == sum(weight.numel() * (2 * 4 - 1) for weight in packed)
