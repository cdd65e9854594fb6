"""``cos check`` on the embedded pair, as it is typed."""

import json
import subprocess
import sys

import pytest

from tests.real.server_process import ROOT

pytestmark = pytest.mark.real


def test_the_embedded_pair_passes_every_check() -> None:
    command = [sys.executable, "-m", "cos.clients.cli", "check", "--json", "--policy", "cos-tiny", "--prm", "cos-tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, str]] = json.loads(done.stdout)
    assert [row for row in rows if row["state"] != "ok"] == []
    assert [row["name"] for row in rows] == [
        "policy files",
        "PRM files",
        "step grammar",
        "chat template",
        "PRM format",
        "pictures",
        "context lengths",
        "memory",
        "PRM scores",
        "PRM prefix cache",
        "first search",
        "policy prefix cache",
    ]
