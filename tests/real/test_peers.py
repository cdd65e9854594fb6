"""its_hub itself, in front of vLLM's own servers, beside our server."""

import json
import subprocess
import sys

import pytest

from tests.real.server_process import ROOT

pytestmark = pytest.mark.real


def test_its_hub_and_ours_answer_the_same_questions() -> None:
    command = "bench peers --peers its_hub --n 2 --concurrency 1 --rounds 1 --json"
    cos = f"{sys.executable.rsplit('/', 1)[0]}/cos"
    ended = subprocess.run([cos, *command.split()], capture_output=True, text=True, cwd=ROOT, timeout=540, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    facts = json.loads(ended.stdout)
    beside = {row["our_strategy"]: row for row in facts["results"]}
    assert set(beside) == {"auto", "best_of_n"}
    for row in beside.values():
        assert row["peer"] == "its_hub 1.2.0"
        assert row["theirs"]["searches"] == row["ours"]["searches"] == 4
        assert row["theirs"]["tokens_per_search"] > 2 * 50, "two whole chains"
    # Four questions of which each side should have some: a peer that reads nothing right is a mistake of ours.
    assert max(row["theirs"]["accuracy"] for row in beside.values()) > 0
    assert facts["checkpoints"]["policy"]
