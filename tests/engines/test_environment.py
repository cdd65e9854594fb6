"""What an engine computes in on this machine."""

import subprocess
import sys

import pytest

from cos.engines import environment
from cos.engines.environment import compute_threads, fitting_dtype
from cos.engines.settings import EngineSettings, Role


@pytest.mark.parametrize(
    ("role", "dtype", "on_cpu", "has_bfloat16", "has_tiles", "found"),
    [
        ("policy", "auto", True, False, False, "float32"),
        ("policy", "auto", True, True, False, "auto"),
        ("policy", "auto", False, False, False, "auto"),
        ("policy", "bfloat16", True, False, False, "bfloat16"),
        ("prm", "auto", True, False, False, "float32"),
        ("prm", "auto", True, True, False, "float32"),
        ("prm", "auto", True, True, True, "auto"),
        ("prm", "auto", False, False, False, "auto"),
        ("prm", "bfloat16", True, True, False, "bfloat16"),
    ],
)
def test_a_cpu_computes_in_float32_where_bfloat16_is_slow_or_misjudges_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
    role: Role,
    dtype: str,
    on_cpu: bool,
    has_bfloat16: bool,
    has_tiles: bool,
    found: str,
) -> None:
    monkeypatch.setattr(environment, "computes_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(environment, "has_bfloat16_tiles", lambda: has_tiles)
    assert fitting_dtype(EngineSettings(role=role, model="any", dtype=dtype), on_cpu=on_cpu) == found
    if role == "prm":
        adapted = EngineSettings(role="policy", model="any", dtype=dtype, adapter="a PRM")
        assert fitting_dtype(adapted, on_cpu=on_cpu) == found


def test_an_engine_computes_with_half_of_the_cores_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.os, "cpu_count", lambda: 8)
    assert compute_threads(EngineSettings(role="policy", model="any")) == 4
    assert compute_threads(EngineSettings(role="prm", model="any", threads=3)) == 3


def test_a_process_computes_with_its_own_number_of_threads_whatever_the_environment_said() -> None:
    code = (
        "import os; os.environ['OMP_NUM_THREADS'] = '1'; import torch; "
        "from cos.engines.vllm_process import use_threads; use_threads(3); "
        "print(torch.get_num_threads(), os.environ['OMP_NUM_THREADS'])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "3"]
