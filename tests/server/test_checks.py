"""What is refused by a policy's and a PRM's files alone, before any engine is started."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cos.clients.cli import main
from cos.engines.launch import Engines
from cos.engines.memory import GIB, Memory, main_memory
from cos.engines.scripted import ScriptedEngine
from cos.prm.math_shepherd import MathShepherd
from cos.prm.ports import Checkpoint, PrmFormat
from cos.search.errors import InputError
from cos.search.ports import Reading
from cos.server import service
from cos.server.checks import files
from cos.server.checks.files import check_files
from cos.server.checks.finding import Finding, Unusable, refused
from cos.server.checks.prefix_cache import of_readings
from cos.server.settings import Settings
from cos.server.unmetered import Unmetered
from tests.engines.small_tokenizer import CHAT
from tests.server.checkpoints import BLIND, SEEING, TEMPLATE, checkpoint, safetensors

Make = Callable[[Path], object]
PLENTY = Memory("this machine's memory", 2**40, 2**40)
HEADED = {**BLIND, "architectures": ["Qwen2ForTokenClassification"]}
HEAD = safetensors(3072, "score.weight", width=3)


def whole(folder: Path) -> object:
    return checkpoint(folder)


def bare(folder: Path) -> object:
    return folder.mkdir()


def half(folder: Path) -> object:
    checkpoint(folder, weights=None)
    named = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model-00001-of-00002.safetensors").write_bytes(safetensors(64))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}), encoding="utf-8")
    return folder


def speechless(folder: Path) -> object:
    (checkpoint(folder) / "tokenizer.json").unlink()
    return (folder / "tokenizer_config.json").unlink()


def nothing(folder: Path) -> object:
    return folder


@dataclass(frozen=True)
class Pair:
    """A wrong pairing."""

    why: str
    """Part of what was found."""
    todo: str
    """Part of what to do."""
    policy: Make = whole
    prm: Make = whole
    given: dict[str, Any] = field(default_factory=dict[str, Any])
    memory: Memory | None = PLENTY


def saying(config: str) -> Make:
    def make(folder: Path) -> object:
        return (checkpoint(folder) / "config.json").write_text(config, encoding="utf-8")

    return make


def of(**parts: Any) -> Make:
    return lambda folder: checkpoint(folder, **parts)


WRONG = {
    "no folder": Pair("the folder does not exist", "give a checkpoint folder", policy=nothing),
    "no checkpoint": Pair("the folder has no config.json", "give a checkpoint folder", prm=bare),
    "no weights": Pair("a config.json but no weights", "download the whole checkpoint", prm=of(weights=None)),
    "a shard is missing": Pair("1 of its 2 files of weights are missing", "download", policy=half),
    "weights are cut off": Pair("cut off", "download", policy=of(weights=safetensors(4096)[:-1])),
    "weights were never fetched": Pair(
        "no safetensors file", "download", policy=of(weights=b"version https://git-lfs")
    ),
    "no tokenizer": Pair("its tokenizer cannot be loaded", "tokenizer.json", policy=speechless),
    "no chat template": Pair("has no chat template", "instruction-tuned", policy=of(template=None)),
    "a policy of another grammar": Pair(
        "lacks the step tokens", "give a policy", policy=of(controls=CHAT), given={"grammar": "cos"}
    ),
    "a PRM without its labels": Pair("lacks 'ки'", "--prm none", prm=of(controls=CHAT), given={"prm_format": "cos"}),
    "a PRM of no known format": Pair("its files name none", "name it by --prm-format", prm=of(controls=CHAT)),
    "a PRM with a head as the policy": Pair(
        "is a reward model (Qwen2ForTokenClassification)", "as --prm", policy=of(config=HEADED, weights=HEAD)
    ),
    "a PRM that writes labels as the policy": Pair(
        "is a reward model (InternVLRewardModel)",
        "as --prm",
        policy=of(config={**SEEING, "architectures": ["InternVLRewardModel"]}),
        prm=nothing,
        given={"prm": "none"},
    ),
    "a head as labels": Pair(
        "has a head", "--prm-format", prm=of(config=HEADED, weights=HEAD), given={"prm_format": "cos"}
    ),
    "a writer as a head": Pair("writes and has none", "own checkpoint", given={"prm_format": "qwen_math_prm"}),
    "a head that is not there": Pair("its weights hold no head", "the whole checkpoint", prm=of(config=HEADED)),
    "a head of another width": Pair(
        "this model's head gives 3 values",
        "--prm-format",
        prm=of(config=HEADED, weights=HEAD),
        given={"prm_format": "qwen_math_prm"},
    ),
    "a judge without words": Pair("no single token for the word 'Yes'", "--prm", prm=nothing, given={"prm": "judge"}),
    "a PRM of a short context": Pair(
        "its context has 32", "--prm-max-model-len", prm=of(config={**SEEING, "max_position_embeddings": 32})
    ),
    "a blind policy": Pair(
        "reads text alone", "vision-language model", policy=of(config=BLIND), given={"image_required": True}
    ),
    "a blind PRM": Pair(
        "shows it pictures", "vision-language PRM", prm=of(config=BLIND), given={"image_required": True}
    ),
    "a reward model as the policy": Pair(
        "is a reward model (Qwen2ForTokenClassification), and writes no steps",
        "give it as --prm",
        policy=of(config=HEADED, weights=HEAD),
        given={"prm": "none"},
    ),
    "a head of an unknown class": Pair(
        "although its weights hold score.weight",
        "such as Qwen2ForProcessRewardModel, into config.json",
        prm=of(config={**BLIND, "architectures": ["MyPrm"]}, weights=HEAD),
        given={"prm_format": "qwen_math_prm"},
    ),
    "a config that is a list": Pair("it holds '[]' in place of an object", "checkpoint folder", prm=saying("[]")),
    "a config that is nothing": Pair("its config.json cannot be read", "checkpoint folder", policy=saying("null")),
    "architectures that are a name": Pair(
        "its architectures are 'Qwen2' in place of a list",
        "checkpoint folder",
        policy=of(config={**SEEING, "architectures": "Qwen2"}),
    ),
    "architectures that are no names": Pair(
        "its architectures are '[1]' in place of a list",
        "checkpoint folder",
        prm=of(config={**SEEING, "architectures": [1]}),
    ),
    "a template that begins no reply": Pair(
        "does not begin the model's reply", "chat_template.jinja", policy=of(template=TEMPLATE.split("{% if add_")[0])
    ),
    "too large": Pair("weights and KV caches take", "smaller", memory=Memory("this machine's memory", 2**28, 2**28)),
}


async def found(tmp_path: Path, pair: Pair) -> tuple[Finding, ...]:
    pair.policy(tmp_path / "policy")
    pair.prm(tmp_path / "prm")
    models = {"policy": str(tmp_path / "policy"), "prm": str(tmp_path / "prm")}
    return await check_files(Settings.model_validate({**models, **pair.given}), lambda: pair.memory)


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_pairing_is_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    pair = WRONG[name]
    (wrong,) = [finding for finding in await found(tmp_path, pair) if finding.state == "refused"]
    assert pair.why in wrong.found
    assert pair.todo in wrong.todo


async def test_a_pair_that_two_formats_take_for_theirs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def also(cls: type[PrmFormat], checkpoint: Checkpoint) -> bool:
        return True

    monkeypatch.setattr(MathShepherd, "recognises", classmethod(also))
    (*_, wrong) = [row for row in await found(tmp_path, Pair("", "")) if row.state == "refused"]
    assert "cos and math_shepherd might all be its format" in wrong.found
    assert "--prm-format" in wrong.todo


async def test_a_right_pair_is_well(tmp_path: Path) -> None:
    rows = await found(tmp_path, Pair("", ""))
    assert {row.state for row in rows} == {"ok"}
    assert [row.name for row in rows] == [
        "policy files",
        "PRM files",
        "step grammar",
        "chat template",
        "PRM format",
        "pictures",
        "context lengths",
        "memory",
    ]


async def test_a_policy_without_prm_is_checked_alone(tmp_path: Path) -> None:
    rows = await found(tmp_path, Pair("", "", prm=nothing, given={"prm": "none"}))
    assert {row.state for row in rows} == {"ok"}


async def test_a_prm_whose_context_is_shorter_than_the_policys_is_warned_of(tmp_path: Path) -> None:
    pair = Pair("", "", prm=of(config={**SEEING, "max_position_embeddings": 2048}))
    (row,) = [row for row in await found(tmp_path, pair) if row.state != "ok"]
    assert row.state == "warning"
    assert "behind the PRM's 2,048 tokens is unscored" in row.found
    assert "raise" not in row.todo, "a model's own context cannot be raised"
    assert (await found(tmp_path / "raised", Pair("", "", prm=pair.prm, given={"policy_max_model_len": 2048})))[
        -2
    ].state == "ok"


async def test_a_context_without_room_for_one_step_is_warned_of(tmp_path: Path) -> None:
    (row,) = [row for row in await found(tmp_path, Pair("", "", given={"max_model_len": 512})) if row.state != "ok"]
    assert "no room for one step" in row.found
    assert "step_tokens" in row.todo
    assert "raise --policy-max-model-len" in row.todo, "the limit that was set"


async def test_memory_that_something_else_holds_is_warned_of(tmp_path: Path) -> None:
    (row,) = [
        row for row in await found(tmp_path, Pair("", "", memory=Memory("it", 2**40, 2**28))) if row.state != "ok"
    ]
    assert (row.name, row.state) == ("memory", "warning")


async def on_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gibibytes: tuple[float, ...], **given: Any
) -> Finding:
    """The last row, on a machine with these GPUs."""
    monkeypatch.setattr(files, "is_cpu_build", lambda: False)
    for name in ("policy", "prm"):
        checkpoint(tmp_path / name)
    there = {number: Memory(f"GPU {number}", int(size * GIB), int(size * GIB)) for number, size in enumerate(gibibytes)}
    models = {"policy": str(tmp_path / "policy"), "prm": str(tmp_path / "prm")}
    *_, row = await check_files(Settings.model_validate({**models, **given}), gpus=lambda: there)
    return row


@pytest.mark.parametrize(
    ("gibibytes", "given", "state", "told"),
    [
        ((80,), {}, "ok", "policy: 0.0 GiB of weights in 0.45 of GPU 0 (80.0 GiB), PRM: 0.0 GiB of weights in 0.45"),
        ((80,), {"memory_utilization": 0.6}, "ok", "in 0.3 of GPU 0"),
        ((80, 80), {"prm_devices": "1"}, "ok", "in 0.9 of GPU 0 (80.0 GiB), PRM: 0.0 GiB of weights in 0.9 of GPU 1"),
        ((80, 80), {"devices": "0,1"}, "ok", "in 0.45 of GPU 0 (80.0 GiB) and GPU 1 (80.0 GiB), PRM"),
        ((), {}, "ok", "in 0.45 of its GPU, whose size is not known"),
        ((8,), {}, "refused", "do not fit into"),
        ((80,), {"policy_memory_utilization": 0.001}, "refused", "does not fit into 0.1 GiB of GPU 0"),
        ((80,), {"prm_devices": "1"}, "refused", "the PRM is to run on GPU 1, and the GPUs here are 0"),
        ((80,), {"policy_memory_utilization": 0.7, "prm_memory_utilization": 0.6}, "refused", "are 1.3 of GPU 0"),
    ],
)
async def test_engines_share_the_gpus_that_there_are(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gibibytes: tuple[float, ...],
    given: dict[str, Any],
    state: str,
    told: str,
) -> None:
    row = await on_gpus(tmp_path, monkeypatch, gibibytes, **given)
    assert (row.name, row.state) == ("memory", state)
    assert told in row.found


async def test_a_model_without_the_other_on_this_machine_has_the_whole_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given in ({"prm": "judge"}, {"prm": "none"}, {"prm_url": "http://b:8000"}, {"policy_url": "http://a:8000"}):
        row = await on_gpus(tmp_path, monkeypatch, (80,), **given)
        assert "in 0.9 of GPU 0" in row.found


async def test_a_vllm_for_cpu_refuses_gpus(tmp_path: Path) -> None:
    *_, row = await found(tmp_path, Pair("", "", given={"prm_devices": "1"}))
    assert (row.name, row.state) == ("GPUs", "refused")
    assert "built for CPU" in row.found
    assert "leave the devices out" in row.todo


def test_a_containers_limit_is_the_memory_that_there_is(tmp_path: Path) -> None:
    proc = tmp_path / "meminfo"
    proc.write_text("MemTotal: 4096 kB\nMemFree: 1 kB\nMemAvailable: 2048 kB\n", encoding="ascii")
    assert main_memory(proc, tmp_path) == Memory("this machine's memory", 4096 * 1024, 2048 * 1024)
    (tmp_path / "memory.max").write_text("1048576\n", encoding="ascii")
    (tmp_path / "memory.current").write_text("48576\n", encoding="ascii")
    assert main_memory(proc, tmp_path) == Memory("the container's memory", 1_048_576, 1_000_000)
    assert main_memory(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(("cached", "state"), [(0, "warning"), (96, "ok")])
def test_a_prefix_cache_that_is_never_hit_is_warned_of_with_its_cost(cached: int, state: str) -> None:
    row = of_readings("m", [Reading(0.5, 100, 0), Reading(0.5, 130, cached)])
    assert row is not None
    assert row.state == state
    assert ("8 times as much" in row.found) is (state == "warning")


def test_of_a_text_shorter_than_a_block_nothing_is_said() -> None:
    row = of_readings("m", [Reading(0.5, 20, 0), Reading(0.5, 30, 0)])
    assert row is not None
    assert row.state == "ok"
    assert of_readings("m", [Reading(0.5, 20, 0)]) is None


def test_an_error_says_what_to_do_itself_or_is_told() -> None:
    assert refused("a", InputError("wrong; do this", "prm"), "that").todo == "do this"
    assert refused("a", InputError("wrong", "prm"), "that").todo == "that"
    with pytest.raises(ValueError, match="must say what to do"):
        Finding(name="a", state="warning", found="wrong")


async def test_a_server_refuses_a_wrong_pairing_before_it_starts_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def launch(*_: object) -> None:
        pytest.fail("an engine was started")

    monkeypatch.setattr(service, "launch", launch)
    checkpoint(tmp_path / "policy")
    checkpoint(tmp_path / "prm", controls=CHAT)
    with pytest.raises(Unusable, match=r"--prm-format") as error:
        await service.launch_engines(Settings(policy=str(tmp_path / "policy"), prm=str(tmp_path / "prm")))
    assert error.value.param == "prm_format"


async def test_a_start_logs_once_that_the_prm_is_shown_no_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def launch(*_: object) -> Engines:
        return Engines(ScriptedEngine(), ScriptedEngine())

    monkeypatch.setattr(service, "launch", launch)
    checkpoint(tmp_path / "policy")
    checkpoint(tmp_path / "prm")
    settings = Settings(policy=str(tmp_path / "policy"), prm=str(tmp_path / "prm"), prm_format="rlhflow")
    async with service.open_service(settings, Unmetered(), service.launch_engines):
        pass
    (told,) = [line for line in caplog.messages if "shows the PRM no pictures" in line]
    assert told.endswith("give a PRM that sees pictures where steps depend on them")
    table = await check_files(settings, lambda: PLENTY)
    assert [row.state for row in table if row.name == "pictures"] == ["warning"]


def status(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["check", *arguments])
    return int(ended.value.code or 0)


def test_cos_check_ends_with_2_and_a_row_that_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint(tmp_path / "policy", template=None)
    arguments = ("--policy", str(tmp_path / "policy"), "--prm", "none")
    assert status("--json", *arguments) == 2
    rows: list[dict[str, str]] = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["state"]) for row in rows][-2:] == [("chat template", "refused"), ("memory", "ok")]
    assert status(*arguments) == 2
    assert "instruction" in capsys.readouterr().out


def test_cos_check_tries_engines_that_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("--json", "--policy", "scripted") == 0
    rows: list[dict[str, str]] = json.loads(capsys.readouterr().out)
    names = ["PRM scores", "PRM prefix cache", "first search", "policy prefix cache"]
    assert [(row["name"], row["state"]) for row in rows] == [(name, "ok") for name in names]


def test_cos_check_names_a_mistyped_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("--polcy", "scripted") == 2
    assert "cos check: unknown argument --polcy; did you mean --policy?" in capsys.readouterr().err
    assert status("--help") == 0
    assert "--files-only" in capsys.readouterr().out
