"""Every stage that trains, on a tiny random checkpoint of every architecture; and what a run survives."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cos.search.errors import InputError
from cos.training.config.conversion import ExportConfig
from cos.training.config.recipe import DpoConfig, PrmConfig, SftConfig, TokensConfig
from cos.training.learning.encode import load_checkpoint
from cos.training.learning.trainer import newest_checkpoint
from cos.training.runs.folder import StageContext
from cos.training.stages.dpo import run_dpo
from cos.training.stages.prm_training import run_prm
from cos.training.stages.sft import run_sft
from tests.training.tiny_models import ARCHITECTURES, Architecture, build
from tests.training.training_support import (
    context,
    differing,
    logits_of,
    saved_logits,
    write_chains,
    write_pairs,
)

KEYS: dict[str, Any] = {"steps": 2, "batch": 2, "learning_rate": 1e-3, "log_every": 1, "precision": "fp32"}
LORA: dict[str, Any] = {"lora": {"rank": 2, "alpha": 4}}
Stage = Callable[[Path, StageContext, Mapping[str, Any]], None]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with chains.jsonl and pairs.jsonl."""
    folder = tmp_path_factory.mktemp("rows")
    write_chains(folder / "chains.jsonl", 6)
    write_pairs(folder / "pairs.jsonl", 6)
    return folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Mapping[Architecture, Path]:
    """A tiny checkpoint of every architecture, with the step tokens."""
    return {kind: build(tmp_path_factory.mktemp(kind), kind) for kind in ARCHITECTURES}


def sft(model: Path, data: Path, **keys: Any) -> SftConfig:
    return SftConfig.model_validate({"model": str(model), "data": [str(data / "chains.jsonl")], **KEYS, **keys})


def prm(model: Path, data: Path, **keys: Any) -> PrmConfig:
    return PrmConfig.model_validate({"model": str(model), "chains": [str(data / "chains.jsonl")], **KEYS, **keys})


def dpo(model: Path, data: Path, **keys: Any) -> DpoConfig:
    return DpoConfig.model_validate({"policy": str(model), "pairs": [str(data / "pairs.jsonl")], **KEYS, **keys})


def run(stage: str, model: Path, data: Path, where: StageContext, **keys: Any) -> None:
    """Runs a stage by name; ``-lora`` trains adapters."""
    kind, _, lora = stage.partition("-")
    keys = {**(LORA if lora else {}), **keys}
    match kind:
        case "sft":
            run_sft(sft(model, data, **keys), where)
        case "prm":
            run_prm(prm(model, data, **keys), where)
        case _:
            run_dpo(dpo(model, data, **keys), where)


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("stage", ["sft", "sft-lora", "prm", "dpo", "dpo-lora"])
def test_a_stage_trains_a_checkpoint_that_loads_again(
    stage: str, architecture: Architecture, checkpoints: Mapping[Architecture, Path], data: Path, tmp_path: Path
) -> None:
    where = context(tmp_path, stage)
    kept: list[Tensor] = []
    run_and_keep_logits(stage, checkpoints[architecture], data, where, kept)
    losses = [entry["loss"] for entry in metrics(where.folder) if "loss" in entry]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    assert differing(where.folder / "model", checkpoints[architecture])
    assert torch.equal(saved_logits(where.folder / "model"), kept[0])


def run_and_keep_logits(stage: str, model: Path, data: Path, where: StageContext, kept: list[Tensor]) -> None:
    """Runs a stage and notes what the model in memory says when it is written down."""
    from cos.training.runs import folder

    finish = folder.StageRun.finish

    def noting(self: folder.StageRun, model: Any = None, processor: Any = None, outcome: Any = None) -> None:
        finish(self, model, processor, outcome)
        kept.append(logits_of(model, processor))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder.StageRun, "finish", noting)
        run(stage, model, data, where)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_step_tokens_are_added_to_a_checkpoint_and_can_be_trained(
    architecture: Architecture, data: Path, tmp_path: Path
) -> None:
    from cos.training.stages.tokens import run_tokens

    bare = build(tmp_path / "bare", architecture, cos_tokens=False)
    where = context(tmp_path, "tokens")
    run_tokens(TokensConfig(checkpoint=str(bare)), where)
    assert torch.isfinite(saved_logits(where.folder / "model")).all()
    run("prm", where.folder / "model", data, context(tmp_path, "prm"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_is_exported_in_the_format_it_is_served_in(
    architecture: Architecture, checkpoints: Mapping[Architecture, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    from cos.training.stages.export import run_export

    where = context(tmp_path, "export")
    run_export(ExportConfig(model=str(checkpoints[architecture])), where)
    kept, written = (
        load_file(folder / "model.safetensors") for folder in (checkpoints[architecture], where.folder / "model")
    )
    assert {value.dtype for value in written.values()} == {torch.bfloat16}
    assert all(torch.equal(value, kept[name].to(torch.bfloat16)) for name, value in written.items())
    told = json.loads((where.folder / "model" / "config.json").read_text())
    assert {told["dtype"], told["text_config"]["dtype"], told["vision_config"]["dtype"]} == {"bfloat16"}


def test_several_checkpoints_are_exported_as_their_mean(
    checkpoints: Mapping[Architecture, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    from cos.training.stages.export import run_export

    mine, other = checkpoints["internvl"], build(tmp_path / "other", "internvl", seed=5)
    where = context(tmp_path, "export")
    run_export(ExportConfig(model=str(mine), averaged_with=(str(other),), precision="fp32"), where)
    first, second, mean = (load_file(path / "model.safetensors") for path in (mine, other, where.folder / "model"))
    assert all(torch.allclose(value, (first[name] + second[name]) / 2) for name, value in mean.items())
    unlike = str(checkpoints["llava_next"])
    with pytest.raises(InputError, match=r"averaged_with .* has the shape .* average checkpoints of one training"):
        run_export(ExportConfig(model=str(mine), averaged_with=(unlike,)), context(tmp_path, "unlike"))


class Stopped(Exception):
    """A run that is broken off."""


@pytest.mark.parametrize("stage", ["sft", "sft-lora", "prm", "dpo"])
def test_a_resumed_run_equals_the_uninterrupted_one(
    stage: str, checkpoints: Mapping[Architecture, Path], data: Path, tmp_path: Path
) -> None:
    model = checkpoints["internvl"]
    keys = {"steps": 5, "save_every": 2}
    whole, broken = context(tmp_path, "whole"), context(tmp_path, "broken")
    run(stage, model, data, whole, **keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cos.training.learning.trainer.StageTrainer.training_step", stopping_at(3))
        with pytest.raises(Stopped):
            run(stage, model, data, broken, **keys)
    assert newest_checkpoint(broken.folder) == broken.folder / "checkpoint-2"
    run(stage, model, data, broken, **keys)
    assert differing(whole.folder / "model", broken.folder / "model") == []


def stopping_at(step: int) -> Callable[..., Tensor]:
    """A training step that breaks the run off instead of step ``step`` (from 0)."""
    from cos.training.learning.trainer import StageTrainer

    plain = StageTrainer.training_step

    def training_step(self: StageTrainer, model: nn.Module, inputs: dict[str, Any], count: Any = None) -> Tensor:
        if self.state.global_step == step:
            raise Stopped
        return plain(self, model, inputs, count)

    return training_step


@pytest.mark.parametrize("stage", ["sft", "prm", "dpo"])
def test_a_loss_that_is_not_finite_stops_before_a_checkpoint_is_written(
    stage: str, checkpoints: Mapping[Architecture, Path], data: Path, tmp_path: Path
) -> None:
    model, processor = load_checkpoint(checkpoints["internvl"])
    broken = tmp_path / "broken"
    with torch.no_grad():
        next(parameter for name, parameter in model.named_parameters() if "layers" in name).fill_(float("nan"))
    model.save_pretrained(broken)
    processor.save_pretrained(broken)
    where = context(tmp_path, stage)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        run(stage, broken, data, where, save_every=1)
    assert newest_checkpoint(where.folder) is None
    assert not (where.folder / "model").exists()
    assert not where.is_done


KILLED = """
import sys
from pathlib import Path
from tests.training.stages.test_smoke import run
from tests.training.training_support import context
stage, model, data, runs = sys.argv[1:]
run(stage, Path(model), Path(data), context(Path(runs), stage), steps=4000, save_every=1)
"""


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_killed_run_leaves_a_checkpoint_that_loads(
    stage: str, checkpoints: Mapping[Architecture, Path], data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / stage
    command = [sys.executable, "-c", KILLED, stage, str(checkpoints["internvl"]), str(data), str(tmp_path)]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    ) as process:
        deadline = time.monotonic() + 300
        while len(list(folder.glob("checkpoint-*"))) == 0 or newest_step(folder) < 3:
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    newest = newest_checkpoint(folder)
    assert newest is not None
    assert torch.isfinite(saved_logits_of_weights(newest, checkpoints["internvl"])).all()
    step = newest_step(folder)
    run(stage, checkpoints["internvl"], data, context(tmp_path, stage), steps=step + 1, save_every=1)
    assert [entry["step"] for entry in metrics(folder) if "loss" in entry][-1] == step + 1


def newest_step(folder: Path) -> int:
    newest = newest_checkpoint(folder)
    return 0 if newest is None else int(newest.name.rpartition("-")[2])


def saved_logits_of_weights(checkpoint: Path, of: Path) -> Tensor:
    """What a checkpoint's weights say, with the processor of the model it was trained from."""
    processor = load_checkpoint(of)[1]
    return logits_of(type(load_checkpoint(of)[0]).from_pretrained(checkpoint), processor)
