"""Which weights are decayed and orthogonalised, at which rates, and in which order pairs are taught."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from cos.training.config.keys import TrainingKeys
from cos.training.config.recipe import DpoConfig, SftConfig
from cos.training.learning.encode import load_checkpoint
from cos.training.learning.optimizer import MuonAdamW
from cos.training.learning.preference import PairData, Preference
from cos.training.learning.schedule import schedule
from cos.training.runs.metrics import read_metrics
from cos.training.stages.dpo import run_dpo
from cos.training.stages.sft import run_sft
from tests.training.tiny_models import ARCHITECTURES, Architecture, build
from tests.training.training_support import context, differing, write_chains, write_pairs


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Mapping[Architecture, Path]:
    return {kind: build(tmp_path_factory.mktemp(kind), kind) for kind in ARCHITECTURES}


def keys(**given: Any) -> TrainingKeys:
    return TrainingKeys.model_validate({"steps": 1, "weight_decay": 0.1, **given})


def shapes_of(model: nn.Module, optimizer: MuonAdamW, **wanted: Any) -> list[str]:
    """Names of the parameters in groups with these settings, layers' numbers as N."""
    chosen = {
        id(parameter)
        for group in optimizer.param_groups
        if all(group.get(name) == value for name, value in wanted.items())
        for parameter in group["params"]
    }
    named = [name for name, parameter in model.named_parameters() if id(parameter) in chosen]
    return sorted({re.sub(r"\.(layers?|blocks)\.\d+\.", r".\1.N.", name) for name in named})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_matrices_are_decayed_and_gains_biases_and_embeddings_are_not(
    architecture: Architecture, checkpoints: Mapping[Architecture, Path]
) -> None:
    model, _ = load_checkpoint(checkpoints[architecture])
    optimizer = MuonAdamW([*model.named_parameters()], keys())
    layers, others = MATRICES[architecture]
    assert shapes_of(model, optimizer, weight_decay=0.1) == sorted([*layers, *others])
    rest = shapes_of(model, optimizer, weight_decay=0.0)
    assert all(re.search(r"bias|norm|embed(?!\.proj)|lambda|ln_q|newline|cls_token", name) for name in rest), rest


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_muon_takes_the_matrices_within_layers_of_text_and_tower_alone(
    architecture: Architecture, checkpoints: Mapping[Architecture, Path]
) -> None:
    model, _ = load_checkpoint(checkpoints[architecture])
    optimizer = MuonAdamW([*model.named_parameters()], keys(optimizer="muon"))
    by_muon, by_adamw = optimizer.parts
    assert isinstance(by_muon, torch.optim.Muon)
    assert isinstance(by_adamw, torch.optim.AdamW)
    assert {group["kind"] for group in by_muon.param_groups} == {"layer"}
    assert shapes_of(model, optimizer, kind="layer") == sorted(MATRICES[architecture][0])
    assert {group["weight_decay"] for group in by_muon.param_groups} == {0.1}


def test_every_part_has_its_own_rate_and_adamw_its_betas(checkpoints: Mapping[Architecture, Path]) -> None:
    model, _ = load_checkpoint(checkpoints["qwen2_5_vl"])
    given = keys(learning_rate=1e-3, learning_rates={"vision": 1e-5, "projector": 1e-4}, adam_beta1=0.8, adam_beta2=0.9)
    optimizer = MuonAdamW([*model.named_parameters()], given)
    assert {(group["part"], group["lr"]) for group in optimizer.param_groups} == {
        ("vision", 1e-5),
        ("projector", 1e-4),
        ("text", 1e-3),
    }
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}
    assert all(".merger." in name for name in shapes_of(model, optimizer, part="projector"))


def rates(steps: int, **given: Any) -> list[float]:
    """The rates of a run's steps, as shares of the peak."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    falling = schedule(keys(learning_rate=2.0, **given), optimizer, steps)
    found: list[float] = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"] / 2.0)
        optimizer.step()
        falling.step()
    return found


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3, 40])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.99])
def test_no_step_is_at_rate_0_and_every_run_reaches_the_peak(kind: str, steps: int, share: float) -> None:
    found = rates(steps, schedule=kind, warmup_share=share)
    assert min(found) > 0
    assert max(found) == pytest.approx(1.0)


def test_the_rate_rises_evenly_and_falls_towards_its_end() -> None:
    assert rates(10, warmup_share=0.3)[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates(4, warmup_share=0.0, schedule="linear", min_rate_share=0.2) == pytest.approx([1.0, 0.8, 0.6, 0.4])
    assert rates(3, warmup_share=0.0, min_rate_share=1.0) == pytest.approx([1.0, 1.0, 1.0])
    assert rates(3, warmup_share=0.0, schedule="linear", min_rate_share=1.0) == pytest.approx([1.0, 1.0, 1.0])
    with pytest.raises(ValidationError, match="a constant rate does not fall"):
        keys(schedule="constant", min_rate_share=0.1)


def test_a_run_of_one_step_learns_with_the_default_warmup(
    checkpoints: Mapping[Architecture, Path], tmp_path: Path
) -> None:
    chains = write_chains(tmp_path / "chains.jsonl", 2)
    where = context(tmp_path, "sft")
    given = {"steps": 1, "batch": 2, "precision": "fp32", "log_every": 1, "max_grad_norm": 0.0}
    run_sft(SftConfig.model_validate({"model": str(checkpoints["internvl"]), "data": [str(chains)], **given}), where)
    assert read_metrics(where.folder)[0]["learning_rate"] == 1e-5
    assert differing(where.folder / "model", checkpoints["internvl"])


def taught_orders(pairs: Path, model: Path, where: Any, patch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The pairs of each of two epochs in the order in which they are taught."""
    read: list[str] = []
    plain = PairData.__getitem__

    def noting(self: PairData, index: int) -> Preference:
        found = plain(self, index)
        read.append(found.row)
        return found

    patch.setattr(PairData, "__getitem__", noting)
    given = {"epochs": 2, "batch": 2, "precision": "fp32"}
    run_dpo(DpoConfig.model_validate({"policy": str(model), "pairs": [str(pairs)], **given}), where)
    count = len(read) // 3
    return [read[count : 2 * count], read[2 * count :]]


def test_every_epoch_teaches_the_pairs_in_another_order_that_follows_from_the_seed(
    checkpoints: Mapping[Architecture, Path], tmp_path: Path
) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", 8)
    found: dict[str, list[Sequence[str]]] = {}
    for name, seed in (("zero", 0), ("one", 1)):
        with pytest.MonkeyPatch.context() as patch:
            found[name] = taught_orders(pairs, checkpoints["internvl"], context(tmp_path, name, seed), patch)
    first, second = found["zero"]
    assert first != second
    assert sorted(first) == sorted(second)
    assert found["zero"] != found["one"]


def inside(layers: str, names: str) -> list[str]:
    """Weights within layers: ``attn.{k,v}`` is two."""
    found: list[str] = []
    for name in names.split():
        head, _, choice = name.partition("{")
        found += [f"{layers}.N.{head}{one}.weight" for one in choice.rstrip("}").split(",")]
    return found


TEXT = inside(
    "model.language_model.layers",
    "mlp.{down_proj,gate_proj,up_proj} self_attn.{k_proj,o_proj,q_proj,v_proj}",
)
PROJECTOR = ["model.multi_modal_projector.linear_1.weight", "model.multi_modal_projector.linear_2.weight"]
MATRICES: Mapping[Architecture, tuple[Sequence[str], Sequence[str]]] = {
    "internvl": (
        TEXT
        + inside("model.vision_tower.encoder.layer", "attention.{k_proj,projection_layer,q_proj,v_proj} mlp.{fc1,fc2}"),
        [*PROJECTOR, "lm_head.weight", "model.vision_tower.embeddings.patch_embeddings.projection.weight"],
    ),
    "llava_next": (
        TEXT + inside("model.vision_tower.encoder.layers", "self_attn.{k_proj,out_proj,q_proj,v_proj} mlp.{fc1,fc2}"),
        [*PROJECTOR, "lm_head.weight", "model.vision_tower.embeddings.patch_embedding.weight"],
    ),
    "qwen2_5_vl": (
        TEXT + inside("model.visual.blocks", "attn.{proj,qkv} mlp.{down_proj,gate_proj,up_proj}"),
        [
            "lm_head.weight",
            "model.visual.merger.mlp.0.weight",
            "model.visual.merger.mlp.2.weight",
            "model.visual.patch_embed.proj.weight",
        ],
    ),
}
"""Matrices within layers, and those elsewhere."""
