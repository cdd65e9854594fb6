"""Flags, variables and YAML: who wins, and how a bad one names itself."""

from pathlib import Path

import pytest

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


def test_each_engine_gets_its_own_share() -> None:
    settings = Settings(policy="a/b", prm="c/d", policy_memory_utilization=0.3, threads=3)
    policy, prm = settings.engine_settings("policy"), settings.engine_settings("prm")
    assert policy is not None
    assert prm is not None
    assert (policy.model, policy.memory_utilization) == ("a/b", 0.3)
    assert (prm.model, prm.memory_utilization) == ("c/d", 0.4)
    assert policy.threads == prm.threads == 3


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
        (("--strategy", "bem"), "unknown strategy 'bem'; available: auto"),
        (("--dtype", "int3"), "'auto', 'bfloat16'"),
        (("--maxn", "3"), "unknown argument --maxn; did you mean --max-n?"),
        (("a-model",), "unknown argument a-model"),
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
    for group in ("models:", "engines:", "search:", "limits:", "server:"):
        assert f"\n{group}\n" in text
