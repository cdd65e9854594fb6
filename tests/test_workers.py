"""Files that share a fixture of the whole run are run by one worker, which starts it once."""

import re
from pathlib import Path

import pytest

from tests.workers import LONGEST, REAL_ENGINES, REAL_SERVER, sendable, turns

ROOT = Path(__file__).parents[1]


def using(fixture: str, folder: str) -> set[str]:
    """The files of tests in a folder that name a fixture."""
    return {
        str(file.relative_to(ROOT))
        for file in sorted((ROOT / folder).rglob("test_*.py"))
        if file != Path(__file__) and re.search(rf"\b{fixture}\b", file.read_text(encoding="utf-8"))
    }


def test_all_users_of_the_real_engines_or_of_the_real_server_are_known() -> None:
    # In tests/engines the fixture `engines` stands for them.
    by_name = using("real_engines", "tests") | using("engines: Engines", "tests/engines")
    assert by_name == set(REAL_ENGINES)
    assert using("server: ServerProcess", "tests/real") == set(REAL_SERVER)


@pytest.mark.parametrize("file", [file for files in LONGEST for file in files])
def test_a_file_of_the_longest_is_there(file: str) -> None:
    assert (ROOT / file).is_file()


def test_the_longest_come_first_then_files_with_real_engines_then_all_others_in_their_order() -> None:
    (longest,), *_ = LONGEST
    tests = ["tests/c.py::test_one", "tests/a.py::test_one", "tests/b.py::test_one", f"{longest}::test_one"]
    turn = turns(["tests/b.py::test_one"], tests)
    assert turn[longest] == 0
    assert max(turn[file] for files in LONGEST for file in files) < turn["tests/b.py"]
    assert turn["tests/b.py"] < turn["tests/c.py"] < turn["tests/a.py"]
    assert {turn[file] for file in REAL_ENGINES} == {turn[REAL_ENGINES[0]]}


def test_a_report_is_sent_even_where_a_test_logged_half_a_character() -> None:
    report = {"sections": [("Captured log call", "a \ud800 b")], "duration": 0.5, "longrepr": None}
    assert sendable(report) == {
        "sections": [("Captured log call", "a \\ud800 b")],
        "duration": 0.5,
        "longrepr": None,
    }
