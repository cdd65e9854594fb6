"""The core knows no dialect, and nothing in it is imported in a circle."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cos.search.grammars.cos import COS_TOKENS

ROOT = Path(__file__).parents[1]

CONSTANTS = r"\b(?:STEP_TAG|LABEL_GOOD|LABEL_BAD|POLICY_TOKENS|PRM_TOKENS|COS_TOKENS)\b"
DIALECT = re.compile("|".join([*map(re.escape, COS_TOKENS), CONSTANTS]))
"""Control tokens of the CoS format, its tag and labels, and the constants that hold them."""
FIELDS = re.compile(r"\b(?:thought|reflection)s?\b")
"""Named parts of a CoS step. A "name" may be anything's."""
SPEAKS_COS = {"search/grammars/cos.py", "prm/cos.py", "prm/math_shepherd.py"}
"""The format's two files, and an older format whose step tag it took over."""
TRAINER = {"training", "ledger"}
"""The trainer's CoS parts: its rows are CoS steps, and the toy task writes them."""


def core() -> list[Path]:
    """Every module that must know no dialect."""
    rooms = ("search", "prm", "engines", "wire", "server", "clients", "evaluation", "benchmarks")
    found = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    return sorted(path for path in found if str(path.relative_to(ROOT)) not in SPEAKS_COS)


@pytest.mark.parametrize("path", core(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_cos_format_is_known_in_its_own_two_files_only(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert DIALECT.findall(text) == []
    assert FIELDS.findall(text) == []


def imported(path: Path) -> Iterator[str]:
    """Modules of the search that a file imports while it is imported itself, or for its types."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("cos.search"):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & MODULES.keys() or {node.module}


def module_name(path: Path) -> str:
    """What a file is imported as."""
    parts = ("cos", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in (ROOT / "search").rglob("*.py")}


def test_no_module_of_the_search_imports_itself_by_way_of_others() -> None:
    edges = {name: set(imported(path)) & MODULES.keys() for name, path in MODULES.items()}
    while free := {name for name, to in edges.items() if not to & edges.keys()}:
        edges = {name: to for name, to in edges.items() if name not in free}
    assert edges == {}
