"""Which tests one worker of pytest-xdist runs, and which begin first.

All tests of a file run in one worker, so that a module's fixtures are made once. So do the files that share a fixture
of the whole run.
"""

from collections.abc import Iterable
from typing import Any

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

REAL_ENGINES = (
    "tests/engines/test_contract.py",
    "tests/engines/test_contract_prompts.py",
    "tests/engines/test_remote.py",
    "tests/engines/test_reuse.py",
    "tests/real/test_trees.py",
    "tests/training/labels/test_prm_scores.py",
)
"""Files that use the fixtures `real_engines` and `remote_engines`."""
REAL_SERVER = ("tests/real/test_main_job.py", "tests/real/test_dashboards.py")
"""Files that use the real server of `tests/real`."""
LONGEST = (
    ("tests/real/test_peers.py",),
    ("tests/real/test_recipe.py",),
    REAL_SERVER,
    ("tests/training/runs/test_ranks.py",),
    REAL_ENGINES,
    ("tests/real/test_prm_parity.py",),
    ("tests/real/test_judge.py",),
)
"""Files of one worker, those first that take longest."""


def file_of(test: str) -> str:
    """The file of a test's id."""
    return test.partition("::")[0]


def turns(real: Iterable[str], all_: Iterable[str]) -> dict[str, int]:
    """When each file has its turn, by tests' ids: the longest, then others with tests on ``real`` engines, then the
    rest. Files of one worker have the same turn."""
    found = {file: turn for turn, files in enumerate(LONGEST) for file in files}
    for test in (*real, *all_):
        found.setdefault(file_of(test), len(found))
    return found


def sendable(report: Any) -> Any:
    """A report made of plain data, in which lone surrogates are written as escapes."""
    match report:
        case str():
            return report.encode("utf-8", "backslashreplace").decode("utf-8")
        case dict():
            return {name: sendable(value) for name, value in report.items()}
        case list() | tuple():
            return type(report)(map(sendable, report))
        case _:
            return report


class Scheduling(LoadFileScheduling):
    """Every other worker takes what has its turn last. So beside tests that start engines, which compute on both cores
    now and then, run tests that do not; and what is left at the end is neither long nor short."""

    def _split_scope(self, nodeid: str) -> str:
        file = file_of(nodeid)
        return next((files[0] for files in LONGEST if file in files), file)

    def _assign_work_unit(self, node: WorkerController) -> None:
        if self.nodes.index(node) % 2:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)
