"""Commands of docs/deployment.md: run here, or named here with the reason why not."""

import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from cos.server.flags import load_settings
from cos.server.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
TOOLS = ROOT / "build" / "tools"

PROGRAMS = ("docker", "helm", "systemctl", "journalctl", "cos-serve", "uv")
RUN_HERE = ("helm lint ", "helm template ", "cos-serve ")

NO_DOCKER = "needs a Docker daemon; test_compose.py and test_dockerfile.py check the files"
NO_CLUSTER = "needs a cluster; test_helm.py rehearses an installation"
NO_SYSTEMD = "changes the machine's services; test_systemd.py checks the unit"
NOT_RUN = {
    "docker compose up": NO_DOCKER,
    "COS_POLICY=path-or-hub-name COS_PRM=path-or-hub-name docker compose up": NO_DOCKER,
    "docker compose -f docker-compose.yml -f docker-compose.gpu.yml up": NO_DOCKER,
    "COS_POLICY=hub-name COS_PRM=hub-name docker compose -f docker-compose.yml -f docker-compose.remote.yml up": (
        NO_DOCKER
    ),
    "vllm serve MODEL --enable-scale-out --scheduling-policy priority --enable-prompt-tokens-details": (
        "tests/engines/test_remote.py starts vLLM with these options"
    ),
    "COS_POLICY_URL=http://host-a:8000 COS_PRM_URL=http://host-b:8000 cos-serve --policy MODEL --prm PRM": (
        "needs servers elsewhere; tests/engines/test_remote.py has them"
    ),
    "docker compose ps": NO_DOCKER,
    "docker compose up --build": NO_DOCKER,
    "docker run --rm --init -p 127.0.0.1:8000:8000 cos-serve:cpu": NO_DOCKER,
    "docker stop --time 45 NAME": NO_DOCKER,
    "docker run": NO_DOCKER,
    "docker build -t cos-serve:cpu .": NO_DOCKER,
    "docker build --target cuda -t cos-serve:cuda .": NO_DOCKER,
    "docker build --build-arg TORCH_INDEX=ADDRESS -t cos-serve:cpu .": NO_DOCKER,
    "helm install cos deploy/helm/cos-serve": NO_CLUSTER,
    "helm install cos deploy/helm/cos-serve --set image.repository=REPOSITORY": NO_CLUSTER,
    "helm install cos deploy/helm/cos-serve --set image.repository=REPOSITORY --set image.tag=cuda "
    "--set gpu.enabled=true": NO_CLUSTER,
    "UV_PROJECT_ENVIRONMENT=/opt/cos-serve uv sync --locked --no-dev --extra otel --no-editable "
    "--no-managed-python": NO_SYSTEMD,
    "install -D -m 600 deploy/systemd/cos-serve.env.example /etc/cos-serve/cos-serve.env": NO_SYSTEMD,
    "install -m 644 deploy/systemd/cos-serve.service /etc/systemd/system/": NO_SYSTEMD,
    "systemctl daemon-reload": NO_SYSTEMD,
    "systemctl enable --now cos-serve": NO_SYSTEMD,
    "systemctl reset-failed cos-serve": NO_SYSTEMD,
    "systemctl start cos-serve": NO_SYSTEMD,
    "systemctl edit cos-serve": NO_SYSTEMD,
    "journalctl -u cos-serve": NO_SYSTEMD,
    "tests/deploy/bare_root.sh build cpu": "takes minutes and gigabytes; run by hand",
    "tests/deploy/bare_root.sh run cpu --port 8000": "takes what the line before builds; run by hand",
}
"""Commands that no test runs, and why."""


def commands() -> list[str]:
    """Every line of the page's sh blocks, and every command within its text, once."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    inline = [code for code in re.findall(r"`([^`\n]+)`", PAGE) if code.startswith(tuple(f"{it} " for it in PROGRAMS))]
    return list(dict.fromkeys([*lines, *inline]))


def test_every_command_is_run_here_or_named_with_the_reason() -> None:
    assert {line for line in commands() if not line.startswith(RUN_HERE)} == set(NOT_RUN)


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith(RUN_HERE)])
def test_a_command_that_needs_no_machine_of_its_own_works_as_written(line: str) -> None:
    path = os.pathsep.join((str(TOOLS), sysconfig.get_path("scripts"), os.environ["PATH"]))
    program, *arguments = shlex.split(line)
    found = shutil.which(program, path=path)
    if found is None:
        pytest.skip(f"{program} is not installed (helm: tests/deploy/get_helm.sh)")
    done = subprocess.run([found, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", commands())
def test_a_file_that_a_command_names_is_there(line: str) -> None:
    named = re.findall(r"(?:deploy|tests)/[\w./-]+|docker-compose[\w.]*\.yml", line)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_setting_that_matters_exists_with_the_default_told() -> None:
    table = PAGE[PAGE.index("| variable | default |") :].split("\n\n")[0]
    told: dict[str, str] = {}
    for row in table.splitlines()[2:]:
        names, default, _ = (cell.strip() for cell in row.strip("|").split("|"))
        defaults = default.split(", ") if ", " in default else [default] * names.count("`COS_")
        told.update(zip(re.findall(r"`COS_(\w+)`", names), defaults, strict=True))
    found = {name: Settings.model_fields[name.lower()].default for name in told}
    # The embedded policy brings its PRM.
    expected = {name: "none" if default in (None, ()) else str(default) for name, default in found.items()}
    assert {name: default.strip("`") for name, default in told.items()} == {**expected, "PRM": "cos-tiny"}


def placements() -> list[str]:
    """The command lines of the table of GPUs."""
    table = PAGE[PAGE.index("| where the models run |") :].split("\n\n")[0]
    return [row.split("|")[2].strip().strip("`") for row in table.splitlines()[2:]]


@pytest.mark.parametrize("line", dict.fromkeys(placements()))
def test_a_way_to_place_models_is_a_command_line_that_is_taken(line: str) -> None:
    settings = load_settings(shlex.split(line))
    policy, prm = settings.engine_settings("policy"), settings.engine_settings("prm")
    assert policy is not None
    assert (prm is None) is (settings.prm == "judge")


def test_what_the_values_of_the_chart_are_told_to_be_exists() -> None:
    values = (ROOT / "deploy" / "helm" / "cos-serve" / "values.yaml").read_text(encoding="utf-8")
    table = PAGE[PAGE.index("| value | default |") :].split("\n\n")[0]
    names = [name for row in table.splitlines()[2:] for name in re.findall(r"`([\w.]+)`", row.split("|")[1])]
    assert len(names) > 8
    for name in names:
        first, *rest = name.split(".")
        block = re.search(rf"^{first}:.*(?:\n(?:  .*|#.*|)$)*", values, re.MULTILINE)
        assert block is not None, name
        assert all(re.search(rf"^ +{part}:", block[0], re.MULTILINE) for part in rest), name
