"""Commands in the docs exist, with the options they are written with."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from cos.benchmarks.cli import benches, evaluations
from cos.clients.cli import app

DOCS = Path(__file__).parents[2] / "docs"


def documented(name: str) -> list[str]:
    text = (DOCS / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.startswith("cos ")]


@pytest.mark.parametrize("line", documented("benchmarks.md"))
def test_a_documented_benchmark_exists_with_its_options(line: str) -> None:
    _, *words = shlex.split(line, comments=True)
    passed_on = {"bench": benches, "eval": evaluations}
    command: Any = typer.main.get_command(passed_on.get(words[0], app))
    words = words[words[0] in passed_on :]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
    assert command.help
