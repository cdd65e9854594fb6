"""Flags, variables and YAML: who wins, and how a bad one names itself."""

from dataclasses import fields
from pathlib import Path

import pytest

from cos.engines.settings import EngineSettings
from cos.server.engine_options import HERE_AND_ELSEWHERE
from cos.server.flags import load_settings
from cos.server.settings import Settings


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the program says before it ends with code 2."""
    with pytest.raises(SystemExit) as ended:
        load_settings(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_flag_wins_over_a_variable_that_over_yaml_that_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cos.yaml"
    file.write_text("max_n: 10\nport: 9000\ntimeout_s: 5\n")
    monkeypatch.setenv("COS_PORT", "9001")
    monkeypatch.setenv("COS_MAX_N", "20")
    found = load_settings(["--config", str(file), "--max-n", "30"])
    assert (found.max_n, found.port, found.timeout_s, found.host) == (30, 9001, 5.0, "127.0.0.1")
    monkeypatch.setenv("COS_CONFIG", str(file))
    assert load_settings([]).timeout_s == 5.0


def test_keys_come_from_repeated_flags_or_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = load_settings(["--api-key", "a", "--api-key", "b"]).api_key
    assert [key.get_secret_value() for key in flags] == ["a", "b"]
    monkeypatch.setenv("COS_API_KEY", "c,d")
    found = load_settings([])
    assert [key.get_secret_value() for key in found.api_key] == ["c", "d"]
    assert "'c'" not in repr(found)


def test_switches_have_a_no() -> None:
    assert load_settings(["--no-image-required"]).image_required is False
    assert load_settings(["--enforce-eager"]).enforce_eager is True
    assert load_settings(["--no-enforce-eager"]).enforce_eager is False
    assert load_settings([]).enforce_eager is None


def test_the_embedded_and_the_scripted_policy_bring_their_prm() -> None:
    assert load_settings([]).prm_name == "cos-tiny"
    assert load_settings(["--policy", "scripted"]).prm_name == "scripted"
    assert load_settings(["--policy", "a/b", "--prm", "c/d"]).prm_name == "c/d"
    assert load_settings(["--policy", "a/b", "--prm", "none"]).prm_name is None


def engines_of(settings: Settings) -> tuple[EngineSettings, EngineSettings]:
    """How policy and PRM are to be started."""
    policy, prm = settings.engine_settings("policy"), settings.engine_settings("prm")
    assert policy is not None
    assert prm is not None
    return policy, prm


PAIR = ("--policy", "a/b", "--prm", "c/d")
MODELS = {"policy": "a/b", "prm": "c/d"}
OPTIONS: dict[str, tuple[object, object, object]] = {
    "max_model_len": (4096, 8192, 16384),
    "max_num_seqs": (8, 16, 32),
    "dtype": ("bfloat16", "float16", "float32"),
    "quantization": ("fp8", "int8_per_channel_weight_only", "mxfp8"),
    "devices": ("0", "2", "1"),
    "tensor_parallel_size": (2, 4, 8),
    "kv_cache_mib": (64, 128, 512),
    "threads": (1, 2, 3),
    "enforce_eager": (True, False, True),
    "trust_remote_code": (True, False, True),
}
"""Of every engine option a common value, the policy's, and the PRM's."""


def flag(name: str, value: object) -> tuple[str, ...]:
    spelt = name.replace("_", "-")
    if isinstance(value, bool):
        return (f"--{spelt}" if value else f"--no-{spelt}",)
    return (f"--{spelt}", str(value))


def test_every_engine_option_has_a_flag_for_both_engines_and_one_for_each() -> None:
    elsewhere = {"url", "api_key", "timeout_s", "retries", "adapter"}
    shares = {"memory_utilization", "total_memory_utilization"}
    assert {*OPTIONS, *elsewhere, *shares, "role", "model", "runtime", "grammar", "max_images"} == {
        field.name for field in fields(EngineSettings)
    }


@pytest.mark.parametrize(("name", "values"), OPTIONS.items())
def test_an_option_of_one_engine_wins_over_that_of_both(name: str, values: tuple[object, object, object]) -> None:
    both, of_policy, of_prm = values
    one, other = f"policy_{name}", f"prm_{name}"

    def found(*arguments: str) -> list[object]:
        values = [getattr(engine, name) for engine in engines_of(load_settings([*PAIR, *arguments]))]
        return [",".join(map(str, value)) if isinstance(value, tuple) else value for value in values]

    assert found(*flag(name, both)) == [both, both]
    assert found(*flag(name, both), *flag(one, of_policy)) == [of_policy, both]
    assert found(*flag(name, both), *flag(other, of_prm)) == [both, of_prm]
    assert found(*flag(other, of_prm), *flag(one, of_policy)) == [of_policy, of_prm]


@pytest.mark.parametrize("role", ["policy", "prm"])
@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in HERE_AND_ELSEWHERE])
def test_an_option_of_an_engine_that_is_elsewhere_is_refused(
    name: str, role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spelt = f"--{role}-{name.replace('_', '-')}"
    given = flag(f"{role}_{name}", OPTIONS[name][1])
    with pytest.raises(SystemExit):
        load_settings([*PAIR, f"--{role}-url", "http://other:8000", *given])
    told = " ".join(capsys.readouterr().err.split())
    assert f"{spelt} is for an engine of this server, and --{role}-url http://other:8000 is elsewhere" in told
    other = "prm" if role == "policy" else "policy"
    assert load_settings([*PAIR, f"--{other}-url", "http://other:8000", *given])


def test_an_option_of_one_engine_is_a_variable_and_a_yaml_key_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cos.yaml"
    file.write_text("policy: a/b\nprm: c/d\nmax_num_seqs: 8\nprm_max_num_seqs: 4\npolicy_dtype: float16\n")
    monkeypatch.setenv("COS_PRM_MAX_NUM_SEQS", "2")
    policy, prm = engines_of(load_settings(["--config", str(file)]))
    assert (policy.max_num_seqs, prm.max_num_seqs, policy.dtype, prm.dtype) == (8, 2, "float16", "auto")


@pytest.mark.parametrize(
    "option", ["--prm-max-num-seqs", "--policy-threads", "--prm-memory-utilization", "--policy-tensor-parallel-size"]
)
def test_an_option_of_one_engine_has_the_bounds_of_the_common_one(
    capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert f"{option} 0: Input should be greater than" in complaint(capsys, *PAIR, option, "0")


def test_each_engine_gets_its_own_model_and_share() -> None:
    policy, prm = engines_of(Settings(policy="a/b", prm="c/d"))
    assert (policy.model, policy.memory_utilization, policy.runtime) == ("a/b", None, "vllm")
    assert (prm.model, prm.memory_utilization, prm.runtime) == ("c/d", None, "vllm")
    own = engines_of(
        Settings.model_validate({**MODELS, "policy_memory_utilization": 0.2, "prm_memory_utilization": 0.6})
    )
    assert [engine.memory_utilization for engine in own] == [0.2, 0.6]


def test_the_common_share_is_that_of_all_engines_on_a_gpu() -> None:
    assert [engine.total_memory_utilization for engine in engines_of(Settings(policy="a/b", prm="c/d"))] == [0.9, 0.9]
    both = engines_of(Settings(policy="a/b", prm="c/d", memory_utilization=0.6))
    assert [(engine.memory_utilization, engine.total_memory_utilization) for engine in both] == [(None, 0.6)] * 2


@pytest.mark.parametrize(
    ("given", "devices", "sizes"),
    [
        ({"policy_devices": "0,1", "prm_devices": "2"}, [(0, 1), (2,)], [2, 1]),
        ({"policy_devices": "0, 1", "policy_tensor_parallel_size": 2}, [(0, 1), None], [2, 1]),
        ({"devices": "0,1"}, [(0, 1), (0, 1)], [2, 2]),
        ({"devices": "0,1", "prm_devices": "3"}, [(0, 1), (3,)], [2, 1]),
        ({"policy_devices": [2, 3], "prm_devices": 1}, [(2, 3), (1,)], [2, 1]),
        ({"tensor_parallel_size": 4}, [None, None], [4, 4]),
        ({}, [None, None], [1, 1]),
    ],
)
def test_a_list_of_gpus_is_as_many_as_the_weights_are_spread_over(
    given: dict[str, object], devices: list[tuple[int, ...] | None], sizes: list[int]
) -> None:
    found = engines_of(Settings.model_validate({**MODELS, **given}))
    assert [engine.devices for engine in found] == devices
    assert [engine.tensor_parallel_size for engine in found] == sizes


def test_scripted_names_the_runtime_without_a_model() -> None:
    assert [engine.runtime for engine in engines_of(Settings(policy="scripted"))] == ["scripted", "scripted"]
    mixed = engines_of(Settings(policy="scripted", prm="c/d"))
    assert [engine.runtime for engine in mixed] == ["scripted", "vllm"]


@pytest.mark.parametrize(
    ("policy", "name"), [("cos-tiny", "cos-tiny"), ("org/model", "model"), ("/a/b/", "b"), ("./x", "x")]
)
def test_the_model_is_called_by_the_last_part_of_its_policy(policy: str, name: str) -> None:
    assert Settings(policy=policy, prm="none").model_name == name


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--policy", "a/b"), "--policy a/b needs a --prm"),
        (("--n", "x"), "--n x: Input should be a valid integer"),
        (("--n", "0"), "--n 0: Input should be greater than or equal to 1"),
        (("--n", "65"), "--n 65 is above --max-n 64"),
        (("--port", "70000"), "--port 70000"),
        (("--strategy", "bem"), "unknown strategy 'bem'; did you mean 'beam'? available: auto"),
        (("--grammar", "cosy"), "unknown grammar 'cosy'; did you mean 'cos'? available: auto, cos"),
        (("--prm-format", "cosy"), "unknown PRM format 'cosy'; did you mean 'cos'? available: auto, cos"),
        (("--dtype", "int3"), "'auto', 'bfloat16'"),
        ((*PAIR, "--prm-devices", "one"), "--prm-devices one: expected the numbers of GPUs, as 0,1"),
        ((*PAIR, "--devices", "0,-1"), "--devices 0,-1: expected the numbers of GPUs, as 0,1"),
        ((*PAIR, "--devices", "0,1,"), "--devices 0,1,: expected the numbers of GPUs, as 0,1"),
        ((*PAIR, "--policy-devices", "0,1,0"), "--policy-devices 0,1,0: names GPU 0 twice"),
        (
            (*PAIR, "--prm-devices", "2,3", "--tensor-parallel-size", "4"),
            "the PRM has 2 GPUs (2, 3) and a tensor parallel size of 4; leave out --tensor-parallel-size, or give as",
        ),
        (("--maxn", "3"), "unknown argument --maxn; did you mean --max-n?"),
        (("--model", "a-model"), "unknown argument --model; did you mean --policy?"),
        (("--gpu-memory-utilization=0.4",), "did you mean --memory-utilization?"),
        (("a-model",), "unknown argument a-model; a model is given by its flag: --policy a-model or --prm a-model"),
        (("--policy", "a/b", "--prm", "mine.yaml"), "give it as --prm-format, and the PRM itself as --prm"),
        (("--prm-format", "visual_prm"), "unknown PRM format 'visual_prm'; did you mean 'visualprm'? available: auto"),
        (("--prm-format", "VisualPRM"), "did you mean 'visualprm'?"),
        (("--grammar", "paragraf"), "unknown grammar 'paragraf'; did you mean 'paragraph'? available: auto"),
        (("--n",), "argument --n: expected one argument"),
        (("--config", "/nope.yaml"), "--config /nope.yaml: No such file"),
    ],
)
def test_a_bad_argument_is_named_with_the_fix(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    said = complaint(capsys, *arguments)
    assert told in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [("max_m: 3", "unknown setting 'max_m'; did you mean 'max_n'?"), ("a: [", "not YAML"), ("- a", "setting: value")],
)
def test_a_bad_file_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "cos.yaml"
    file.write_text(text)
    said = complaint(capsys, "--config", str(file))
    assert told in said
    assert str(file) in said


def test_a_bad_variable_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COS_PORT", "many")
    assert "variable COS_PORT" in complaint(capsys)


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load_settings(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("cos-serve ")


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load_settings(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert field.description
    assert max(len(line) for line in text.splitlines()) <= 110
    for group in ("models:", "engines:", "policy engine:", "PRM engine:", "search:", "limits:", "server:"):
        assert f"\n{group}\n" in text
