"""What adapters train beside themselves, what they follow from, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from torch import Tensor

from cos.engines.adapter import check_base, find_adapter
from cos.search.errors import InputError
from cos.search.grammars.cos import COS_TOKENS
from cos.training.config.keys import LoraKeys
from cos.training.config.recipe import DpoConfig, PrmConfig, SftConfig
from cos.training.learning.encode import load_checkpoint
from cos.training.learning.parts import part_of
from cos.training.runs.metrics import read_metrics
from cos.training.stages.dpo import run_dpo
from cos.training.stages.sft import run_sft
from tests.training.tiny_models import ARCHITECTURES, Architecture, build
from tests.training.training_support import context, saved_logits, weights, write_chains, write_pairs

ROWS = 4
KEYS: dict[str, Any] = {"steps": 2, "batch": ROWS, "learning_rate": 1e-2, "log_every": 1, "precision": "fp32"}
TABLES = ("embed_tokens.weight", "lm_head.weight")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    write_chains(folder / "chains.jsonl", ROWS)
    write_pairs(folder / "pairs.jsonl", ROWS)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Mapping[Architecture, Path]:
    return {kind: build(tmp_path_factory.mktemp(kind), kind) for kind in ARCHITECTURES}


def sft(model: Path, data: Path, **keys: Any) -> SftConfig:
    given = {"lora": {"rank": 2, "alpha": 4}, **KEYS, **keys}
    return SftConfig.model_validate({"model": str(model), "data": [str(data / "chains.jsonl")], **given})


def moved(before: Path, after: Path) -> Mapping[str, Tensor]:
    """By how much each weight changed that did."""
    old = weights(before)
    found = {name: value - old[name] for name, value in weights(after).items()}
    return {name: change for name, change in found.items() if change.any()}


def token_ids(checkpoint: Path) -> set[int]:
    known = load_checkpoint(checkpoint)[1].tokenizer.get_vocab()
    return {known[token] for token in COS_TOKENS}


def moved_rows(changes: Mapping[str, Tensor], table: str) -> set[int]:
    (change,) = [value for name, value in changes.items() if name.endswith(table)]
    return set(change.any(1).nonzero().flatten().tolist())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("eyes", ["vision", "projector"])
def test_tower_or_projector_are_trained_beside_the_adapters_where_the_keys_say_so(
    eyes: str, architecture: Architecture, checkpoints: Mapping[Architecture, Path], data: Path, tmp_path: Path
) -> None:
    where = context(tmp_path, "sft")
    keys = {"train_vision": eyes == "vision", "train_projector": eyes == "projector"}
    run_sft(sft(checkpoints[architecture], data, **keys), where)
    changes = moved(checkpoints[architecture], where.folder / "model")
    assert {part_of(name) for name in changes} == {"text", eyes}
    assert any(name.endswith("q_proj.weight") and part_of(name) == "text" for name in changes)


def test_tower_and_projector_are_trained_together(
    checkpoints: Mapping[Architecture, Path], data: Path, tmp_path: Path
) -> None:
    where = context(tmp_path, "sft")
    run_sft(sft(checkpoints["qwen2_5_vl"], data, train_vision=True), where)
    parts = {part_of(name) for name in moved(checkpoints["qwen2_5_vl"], where.folder / "model")}
    assert parts == {"text", "vision", "projector"}


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_of_the_tables_only_the_rows_of_the_new_tokens_are_trained(
    stage: str, checkpoints: Mapping[Architecture, Path], data: Path, tmp_path: Path
) -> None:
    checkpoint, where = checkpoints["internvl"], context(tmp_path, stage)
    if stage == "sft":
        run_sft(sft(checkpoint, data), where)
    else:
        given = {"policy": str(checkpoint), "pairs": [str(data / "pairs.jsonl")], "lora": {"rank": 2}}
        run_dpo(DpoConfig.model_validate({**given, **KEYS}), where)
    changes = moved(checkpoint, where.folder / "model")
    for table in TABLES:
        rows = moved_rows(changes, table)
        assert rows
        assert rows <= token_ids(checkpoint)


@pytest.mark.parametrize("whole", [(), ("lm_head",)])
def test_tables_that_are_one_stay_one(whole: Sequence[str], data: Path, tmp_path: Path) -> None:
    checkpoint = build(tmp_path / "tied", "internvl", tied=True)
    where = context(tmp_path, "sft")
    run_sft(sft(checkpoint, data, lora={"rank": 2, "modules_to_save": whole}), where)
    model, _ = load_checkpoint(where.folder / "model")
    tables: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    assert tables[0].weight is tables[1].weight
    rows = moved_rows(moved(checkpoint, where.folder / "model"), TABLES[0])
    assert rows
    assert (rows <= token_ids(checkpoint)) is not bool(whole)


def test_the_tables_stay_as_they_are_where_the_keys_say_so(
    checkpoints: Mapping[Architecture, Path], data: Path, tmp_path: Path
) -> None:
    where = context(tmp_path, "sft")
    run_sft(sft(checkpoints["internvl"], data, lora={"rank": 2, "train_tokens": False}), where)
    assert not [name for name in moved(checkpoints["internvl"], where.folder / "model") if name.endswith(TABLES)]


def test_a_module_is_trained_in_full_where_it_is_named(
    checkpoints: Mapping[Architecture, Path], data: Path, tmp_path: Path
) -> None:
    where = context(tmp_path, "sft")
    run_sft(sft(checkpoints["internvl"], data, lora={"rank": 2, "modules_to_save": ["lm_head"]}), where)
    changes = moved(checkpoints["internvl"], where.folder / "model")
    assert moved_rows(changes, "lm_head.weight") - token_ids(checkpoints["internvl"])
    assert moved_rows(changes, "embed_tokens.weight") <= token_ids(checkpoints["internvl"])


def losses(where: Any) -> list[float]:
    return [entry["loss"] for entry in read_metrics(where.folder) if "loss" in entry]


def test_adapters_follow_from_the_recipes_seed(
    checkpoints: Mapping[Architecture, Path], data: Path, tmp_path: Path
) -> None:
    found: dict[str, list[float]] = {}
    for name, seed in (("zero", 0), ("one", 1), ("again", 0)):
        torch.manual_seed(len(name))
        where = context(tmp_path, name, seed)
        run_sft(sft(checkpoints["internvl"], data, train_projector=False), where)
        found[name] = losses(where)
    assert found["zero"] == found["again"]
    assert abs(found["zero"][1] - found["one"][1]) > 1e-4


@pytest.mark.parametrize(
    ("lora", "what"),
    [
        ({"targets": ["q_proj", "k_porj"]}, r"no module 'k_porj'; it has .*k_proj.*q_proj"),
        ({"targets": ["fc1"]}, "no module 'fc1'"),
        ({"modules_to_save": ["lm_haed"]}, r"no module 'lm_haed'; it has .*lm_head"),
    ],
)
def test_a_mistyped_module_is_told_which_there_are(
    lora: Mapping[str, Any], what: str, checkpoints: Mapping[Architecture, Path], data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=what):
        run_sft(sft(checkpoints["llava_next"], data, lora=lora), context(tmp_path, "sft"))


def test_adapters_where_nothing_can_have_one_are_refused_when_the_recipe_is_read() -> None:
    keys = {"model": "m", "steps": 1, "lora": {}}
    with pytest.raises(ValidationError, match="lora puts adapters on the text layers, and train_text says not to"):
        SftConfig.model_validate({**keys, "data": ["a"], "train_text": False})
    with pytest.raises(ValidationError, match="judging_layers are new: adapters alone cannot teach them"):
        PrmConfig.model_validate({**keys, "ledger": {"digits": "prm"}, "judging_layers": True})


def test_kept_adapters_make_the_same_model_of_the_checkpoint_they_were_trained_on(
    checkpoints: Mapping[Architecture, Path], data: Path, tmp_path: Path
) -> None:
    where = context(tmp_path, "sft")
    run_sft(sft(checkpoints["internvl"], data, lora={"rank": 2, "keep_adapters": True}), where)
    base, _ = load_checkpoint(checkpoints["internvl"])
    adapted: Any = PeftModel.from_pretrained(base, str(where.folder / "adapters"))
    merged = adapted.merge_and_unload().state_dict()
    assert all(torch.equal(value, merged[name]) for name, value in weights(where.folder / "model").items())
    assert torch.isfinite(saved_logits(where.folder / "model")).all()


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"train_tokens": False}, None),
        ({"train_tokens": True}, "trains rows of tokens in the embeddings"),
        (
            {"train_tokens": False, "modules_to_save": ["lm_head"]},
            r"beside its layers \(lm_head\)",
        ),
    ],
)
def test_kept_adapters_are_served_over_their_base_unless_more_than_their_layers_was_trained(
    keys: Mapping[str, Any], told: str | None, checkpoints: Mapping[Architecture, Path], data: Path, tmp_path: Path
) -> None:
    base, where = checkpoints["internvl"], context(tmp_path, "sft")
    run_sft(sft(base, data, train_projector=False, lora={"rank": 2, "keep_adapters": True, **keys}), where)
    folder = str(where.folder / "adapters")
    if told is not None:
        with pytest.raises(InputError, match=told):
            find_adapter(folder)
        return
    adapter = find_adapter(folder)
    check_base(adapter, base)
    assert (adapter.rank, adapter.base) == (2, str(base))
    assert adapter.targets == tuple(sorted(LoraKeys().targets))
