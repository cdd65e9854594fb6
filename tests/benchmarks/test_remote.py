"""The parts of ``cos bench remote`` that need no engine."""

import re
from pathlib import Path

from cos.benchmarks.remote import FLAGS, environment, serving
from cos.checkpoints import embedded

PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"


def test_servers_are_started_as_the_page_says() -> None:
    (line,) = re.findall(r"^vllm serve MODEL (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert " ".join(FLAGS) == line
    for role in ("policy", "prm"):
        command = serving(role)
        assert set(FLAGS) <= set(command)
        assert command[command.index("--model") + 1] == str(embedded(role))
        assert command[command.index("--served-model-name") + 1] == role


def test_two_servers_on_one_machine_share_its_cores() -> None:
    assert environment()["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert int(environment()["OMP_NUM_THREADS"]) >= 1
