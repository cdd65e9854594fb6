"""Commands in the README and in docs/ exist, with the options they are written with."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from cos.benchmarks.cli import benches, evaluations
from cos.clients.cli import app
from cos.server.checks.command import AS_JSON, FILES_ONLY
from cos.server.settings import Settings
from cos.training.cli import app as training

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md")))
PARTS = {"bench": benches, "eval": evaluations, "train": training}
"""The parts of ``cos`` that read their own arguments."""
PLACEHOLDERS = {"STAGE": "sft"}
"""What stands for the name of any command of a kind, and one of them."""


def documented(page: str) -> Iterator[str]:
    """Every command of a page: the lines of its fenced and indented blocks, and what stands in its text."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip().removeprefix("uv run ").removeprefix("--no-sync ") for line in text.splitlines()]
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))
    for line in dict.fromkeys([*lines, *inline]):
        if re.match(r"(cos|cos-serve) [a-z-]", line) and not re.match(r"cos-serve (is|has|speaks)\b", line):
            yield line


def options_of(words: list[str]) -> set[str]:
    """Options as they are written, without values."""
    return {word.partition("=")[0] for word in words if word.startswith("--")}


def known_to_cos(words: list[str]) -> set[str]:
    """Options of the ``cos`` command that these words name. Errors: KeyError for one that there is not."""
    command: Any = typer.main.get_command(PARTS.get(words[0], app))
    words = words[1:] if words[0] in PARTS else words
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        command = command.commands[PLACEHOLDERS.get(name, name)]
    assert command.help
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def known_to_the_server() -> set[str]:
    """Options of ``cos-serve``; a switch can be turned off, too."""
    names = [name.replace("_", "-") for name in Settings.model_fields]
    return {f"--{name}" for name in names} | {f"--no-{name}" for name in names}


@pytest.mark.parametrize(("page", "line"), [(page, line) for page in PAGES for line in documented(page)])
def test_a_documented_command_exists_with_its_options(page: str, line: str) -> None:
    program, *words = shlex.split(line, comments=True)
    known = known_to_cos(list(words)) if program == "cos" else known_to_the_server()
    if (program, words[0]) == ("cos", "check"):
        known |= {*known_to_the_server(), AS_JSON, FILES_ONLY}
    assert options_of(words) <= {*known, "--help"}, page
