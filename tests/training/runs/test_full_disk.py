"""A full disk stops a stage cleanly: what stood there stays, the error says so, and the same command goes on."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from cos.evaluation.files import replacing
from cos.search.errors import InputError
from cos.training.config.recipe import LabelConfig
from cos.training.data.rows import write_rows
from cos.training.data.sources import files_of
from cos.training.runs.folder import StageRun, check_disk
from cos.training.stages.label import run_label
from tests.training.stages.test_label import chain
from tests.training.training_support import context

FULL = Path("/dev/full")
"""Linux's disk without space: every write fails as on a real one."""

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


def test_a_file_that_finds_no_room_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "chains.jsonl"
    path.write_text("old\n")
    (tmp_path / ".chains.jsonl.partial").symlink_to(FULL)
    with pytest.raises(OSError, match="No space left"), replacing(path) as file:
        file.write("new\n")
    assert path.read_text() == "old\n"
    assert [found.name for found in tmp_path.iterdir()] == ["chains.jsonl"]


def test_a_stage_that_finds_no_room_says_so_and_runs_again(tmp_path: Path) -> None:
    write_rows(tmp_path / "chains.jsonl", [chain(tmp_path, 0)])
    config, where = LabelConfig(chains=files_of([str(tmp_path / "chains.jsonl")])), context(tmp_path, "label")
    where.folder.mkdir()
    (where.folder / ".chains.jsonl.partial").symlink_to(FULL)
    with pytest.raises(InputError, match=r"label: the disk is full; nothing half-written was kept\. Free some space"):
        run_label(config, where)
    assert not where.is_done
    assert not (where.folder / "chains.jsonl").exists()
    run_label(config, where)
    assert where.is_done


@pytest.mark.parametrize(
    "failure",
    [
        lambda: OSError(errno.ENOSPC, "No space left on device"),
        lambda: OSError(errno.EDQUOT, "Disk quota exceeded"),
        lambda: SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_libraries_errors_of_a_full_disk_are_known(failure: Callable[[], Exception], tmp_path: Path) -> None:
    where = context(tmp_path, "sft")
    with pytest.raises(InputError, match="the disk is full"), StageRun(where, "sft"):
        raise failure()
    with StageRun(where, "sft"):
        pass


def test_a_checkpoint_is_not_begun_without_room_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=80 << 20)

    def nearly_full(folder: Path) -> object:
        del folder
        return usage

    monkeypatch.setattr(shutil, "disk_usage", nearly_full)
    check_disk(tmp_path, 10 << 20)
    with pytest.raises(InputError, match="30 MiB are to be written, 64 MiB have to stay free, and 80 MiB are free"):
        check_disk(tmp_path, 30 << 20)
