"""What an engine computes in on this machine."""

import pytest

from cos.engines import environment
from cos.engines.environment import fitting_dtype
from cos.engines.settings import EngineSettings


@pytest.mark.parametrize(
    ("dtype", "on_cpu", "has_bfloat16", "found"),
    [
        ("auto", True, False, "float32"),
        ("auto", True, True, "auto"),
        ("auto", False, False, "auto"),
        ("bfloat16", True, False, "bfloat16"),
    ],
)
def test_a_cpu_without_bfloat16_computes_in_float32_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, dtype: str, on_cpu: bool, has_bfloat16: bool, found: str
) -> None:
    monkeypatch.setattr(environment, "computes_bfloat16", lambda: has_bfloat16)
    assert fitting_dtype(EngineSettings(role="policy", model="any", dtype=dtype), on_cpu=on_cpu) == found
