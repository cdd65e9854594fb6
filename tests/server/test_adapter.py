"""A PRM that is a LoRA adapter over the policy (``--prm-lora``): what settings and files allow, before any engine."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from cos.clients.cli import main
from cos.engines.adapter import adapter_arguments, find_adapter
from cos.engines.environment import CPU_KV_CACHE_MIB
from cos.engines.launch import launch
from cos.engines.memory import Memory
from cos.engines.settings import EngineSettings
from cos.prm.choice import PrmChoice
from cos.search.errors import InputError
from cos.server.checks.files import check_files
from cos.server.checks.finding import Finding
from cos.server.flags import load_settings
from cos.server.settings import Settings
from tests.server.checkpoints import checkpoint
from tests.server.test_checks import PLENTY

WIDE = 8
QUERY = "model.layers.0.self_attn.q_proj"
SEEING = "model.visual.blocks.0.attn.proj"
CONFIG: dict[str, Any] = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "bias": "none"}


def policy(folder: Path) -> Path:
    """A checkpoint of one layer."""
    names = ("language_model.model.layers.0.self_attn.q_proj", "language_model.model.layers.0.mlp.down_proj")
    checkpoint(folder)
    save_file({f"{name}.weight": np.zeros((WIDE, WIDE), "float32") for name in names}, folder / "model.safetensors")
    return folder


def adapter(folder: Path, *, layer: str = QUERY, width: int = WIDE, more: str = "", **config: Any) -> Path:
    """The files of an adapter on one layer. ``more``: a further tensor."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}), encoding="utf-8")
    name = f"base_model.model.{layer}"
    weights = {
        f"{name}.lora_A.weight": np.zeros((4, width), "float32"),
        f"{name}.lora_B.weight": np.zeros((width, 4), "float32"),
    }
    if more:
        weights[f"base_model.model.{more}"] = np.zeros((2, WIDE), "float32")
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


class Wrong(NamedTuple):
    """An adapter that cannot be the PRM."""

    why: str
    todo: str
    parts: dict[str, Any]
    spoil: Callable[[Path], object] = lambda folder: None
    given: Mapping[str, Any] = MappingProxyType({})


def of(why: str, todo: str = "docs/models.md says how", **parts: Any) -> Wrong:
    return Wrong(why, todo, parts)


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def away(folder: Path) -> object:
    return folder.rename("gone")


def as_checkpoint(folder: Path) -> object:
    (folder / "adapter_config.json").unlink()
    return (folder / "config.json").write_text("{}", encoding="utf-8")


def cut(folder: Path) -> object:
    path = folder / "adapter_model.safetensors"
    return path.write_bytes(path.read_bytes()[:-1])


def with_tokens(folder: Path) -> object:
    added = [{"id": 5000, "content": "<prm>"}, {"id": 5001, "content": "<good>"}]
    return (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}), encoding="utf-8")


WRONG = {
    "no folder": Wrong("the folder does not exist", "give an adapter's folder", {}, away),
    "no adapter": Wrong("has no adapter_config.json", "PEFT saved", {}, without("adapter_config.json")),
    "a checkpoint": Wrong("it is a whole checkpoint", "give it as --prm", {}, as_checkpoint),
    "no weights": Wrong("no adapter_model.safetensors", "save it", {}, without("adapter_model.safetensors")),
    "weights are cut off": Wrong("cut off", "download it again", {}, cut),
    "another kind of adapter": of("of the type IA3", peft_type="IA3"),
    "a head": of("it has a head (TOKEN_CLS)", "engine of its own", task_type="TOKEN_CLS"),
    "DoRA": of("is a DoRA", use_dora=True),
    "biases": of("trains biases", bias="all"),
    "PiSSA": of("its init_lora_weights", init_lora_weights="pissa_niter_4"),
    "rows of tokens": of("trains rows of tokens", trainable_token_indices={"embed_tokens": [5]}),
    "whole modules": of("trains whole modules beside its layers (lm_head)", modules_to_save=["lm_head"]),
    "a whole table": of("it trains base_model.model.embed_tokens.weight as a whole", more="embed_tokens.weight"),
    "a rank too high": of("it has the rank 1024", rank_pattern={"q_proj": 1024}),
    "the vision tower": of(f"it changes {SEEING}, which sees pictures", layer=SEEING),
    "a deeper model": of(
        "the policy", "give the adapter's base model as --policy (org/base)",
        layer="model.layers.7.self_attn.q_proj", base_model_name_or_path="org/base",
    ),
    "a wider model": of("has 16 inputs and 16 outputs, and the policy's has 8 and 8", "as --policy", width=16),
    "tokens of its own": Wrong("its tokenizer has '<prm>', '<good>'", "merge it", {}, with_tokens),
    "workers on a CPU": Wrong("one process", "--tensor-parallel-size", {}, given={"tensor_parallel_size": 2}),
    "a format that reads a head": Wrong(
        "reads a head", "a head needs an engine of its own: merge it", {}, given={"prm_format": "qwen_math_prm"}
    ),
    "a format unlike it": Wrong("no single token 'Yes'", "--prm-format", {}, given={"prm_format": "mm_prm"}),
}  # fmt: skip


async def found(tmp_path: Path, wrong: Wrong, memory: Memory = PLENTY) -> tuple[Finding, ...]:
    parts: dict[str, Any] = {"base_model_name_or_path": "org/policy", **wrong.parts}
    folder = adapter(tmp_path / "adapter", **parts)
    wrong.spoil(folder)
    given = {"policy": str(policy(tmp_path / "policy")), "prm_lora": str(folder), **wrong.given}
    return await check_files(Settings.model_validate(given), lambda: memory)


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_adapter_is_refused_with_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = WRONG[name]
    (row,) = [row for row in await found(tmp_path, wrong) if row.state == "refused"]
    assert wrong.why in row.found
    assert wrong.todo in row.todo
    assert "--prm-lora" in row.message or row.name == "PRM format"


async def test_a_right_adapter_is_well_and_its_memory_is_counted(tmp_path: Path) -> None:
    rows = await found(tmp_path, of(""))
    assert {row.state for row in rows} == {"ok"}
    assert [row.name for row in rows] == [
        "policy files",
        "PRM adapter",
        "step grammar",
        "chat template",
        "PRM format",
        "pictures",
        "context lengths",
        "memory",
    ]
    assert rows[1].found == "rank 4 on q_proj of the policy's own weights"
    # Weights are two layers of 8 x 8 numbers. The adapter has room for rank 8: 8 x (8 + 8) numbers, each of 4 bytes.
    taken = CPU_KV_CACHE_MIB * 2**20 + 512 + 512
    for total, state in ((taken - 1, "refused"), (taken, "ok")):
        wide = of("")._replace(given={"dtype": "float32"})
        row = (await found(tmp_path / state, wide, Memory("this machine's memory", total, total)))[-1]
        assert row.state == state


async def test_an_adapter_that_was_trained_on_another_model_is_warned_of(tmp_path: Path) -> None:
    (row,) = [row for row in await found(tmp_path, of("", base_model_name_or_path="org/other")) if row.state != "ok"]
    assert (row.name, row.state) == ("PRM adapter", "warning")
    assert "was trained on org/other, and the policy is" in row.found


def test_vllm_sets_room_aside_for_the_adapters_own_rank_and_layers(tmp_path: Path) -> None:
    made = find_adapter(str(adapter(tmp_path / "adapter", r=4, rank_pattern={"q_proj": 20})))
    assert made.rank == 20
    assert adapter_arguments(made) == {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": 32,
        "lora_target_modules": ["q_proj"],
    }


def test_the_policys_engine_is_given_the_adapter() -> None:
    settings = Settings(policy="a/b", prm_lora="c/d", prm_suffix="Look.")
    assert settings.prm_choice == PrmChoice("c/d", is_adapter=True)
    assert settings.prm_name == "c/d"
    assert settings.engine_settings("prm") is None
    engine = settings.engine_settings("policy")
    assert engine is not None
    assert engine.adapter == "c/d"
    assert Settings(prm_lora="c/d").prm_name == "c/d", "the embedded policy's own PRM is not used"


def test_an_adapter_that_is_served_elsewhere_is_asked_there_in_the_policys_prompts() -> None:
    settings = Settings(policy="cos-tiny", prm_lora="judge-adapter", prm_url="http://b:8000")
    policy, prm = settings.engine_settings("policy"), settings.engine_settings("prm")
    assert policy is not None
    assert prm is not None
    assert (policy.runtime, policy.adapter) == ("vllm", None)
    assert (prm.runtime, prm.adapter, prm.url) == ("remote", "judge-adapter", "http://b:8000")
    assert prm.model == policy.model
    assert settings.prm_name == "judge-adapter"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--prm", "e/f"), "leave out one"),
        (("--prm", "none"), "leave out one"),
        (("--prm-dtype", "float32"), "with --prm-lora the policy's engine judges: give --policy-dtype"),
        (
            ("--policy-url", "http://b:8000"),
            "--lora-modules NAME=c/d, and give --prm-url http://b:8000 --prm-lora NAME",
        ),
        (("--policy", "scripted"), "needs a --policy with weights"),
    ],
)
def test_what_an_adapter_cannot_have_beside_it_is_refused_with_the_fix(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    with pytest.raises(SystemExit):
        load_settings(["--policy", "a/b", "--prm-lora", "c/d", *arguments])
    assert told in capsys.readouterr().err


def told_by(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_cos_solve_and_cos_score_take_an_adapter_and_name_what_is_wrong_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(adapter(tmp_path / "adapter"))
    score = ("score", "How much?", "--step", "One.")
    assert "leave out one" in told_by(capsys, "solve", "How much?", "--prm", "a/b", "--prm-lora", folder)
    assert "leave out one" in told_by(capsys, *score, "--prm", "a/b", "--prm-lora", folder)
    assert "does not say what it was trained on" in told_by(capsys, *score, "--prm-lora", folder)
    assert "scores nothing by itself" in told_by(capsys, *score, "--policy", "a/b")
    missing = told_by(capsys, *score, "--policy", "cos-tiny", "--prm-lora", str(tmp_path / "none"))
    assert "the folder does not exist" in missing


def test_an_adapter_is_no_whole_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is a whole checkpoint; give it as --prm"):
        find_adapter(str(checkpoint(tmp_path / "whole")))


async def test_a_start_without_these_checks_refuses_an_adapter_that_does_not_fit(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", width=16)
    with pytest.raises(InputError, match="has 16 inputs and 16 outputs, and the policy's has 8 and 8"):
        await launch(EngineSettings(role="policy", model=str(policy(tmp_path / "policy")), adapter=str(folder)), None)
