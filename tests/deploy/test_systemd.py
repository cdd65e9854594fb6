"""The service of systemd: sound, shut in, and stopped as the server drains."""

import re
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest

from cos.server.settings import Settings

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = FOLDER / "cos-serve.service"


def setting(name: str) -> str:
    """A setting of the service."""
    parser = RawConfigParser(strict=False)
    parser.read(UNIT, encoding="utf-8")
    return parser["Service"][name]


def analysed(*arguments: str) -> "subprocess.CompletedProcess[str]":
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8")
    program = setting("ExecStart")
    assert program == "/opt/cos-serve/bin/cos-serve"
    beside = tmp_path / UNIT.name
    # The server is not installed there on this machine.
    beside.write_text(text.replace(program, "/bin/true"), encoding="utf-8")
    done = analysed("verify", str(beside))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_finds_the_service_well_shut_in() -> None:
    done = analysed("security", "--offline=yes", "--no-pager", str(UNIT))
    exposure = re.search(r"Overall exposure level for cos-serve.service: (\d+\.\d+)", done.stdout)
    assert exposure is not None, done.stderr
    assert float(exposure[1]) <= 2.5


def test_a_stop_reaches_the_server_alone_and_leaves_it_time_to_drain() -> None:
    assert (setting("KillMode"), setting("KillSignal")) == ("mixed", "SIGTERM")
    assert int(setting("TimeoutStopSec")) == Settings.model_fields["shutdown_timeout_s"].default + 15


def test_a_lost_engine_is_started_again_and_a_wrong_setting_is_not() -> None:
    assert setting("Restart") == "on-failure"
    assert setting("RestartPreventExitStatus") == "2"


def test_every_file_of_the_repository_that_the_unit_names_is_there() -> None:
    named = re.findall(r"[\w./-]+\.(?:example|md)", UNIT.read_text(encoding="utf-8"))
    assert len(named) > 1
    assert [name for name in named if not (FOLDER.parents[1] / name).is_file()] == []


def test_every_variable_of_the_example_is_a_setting_of_the_server() -> None:
    example = (FOLDER / "cos-serve.env.example").read_text(encoding="utf-8")
    variables = set(re.findall(r"^#([A-Z_]+)=", example, re.MULTILINE)) - {"HF_TOKEN"}
    assert variables
    assert variables <= {f"COS_{name.upper()}" for name in Settings.model_fields}
