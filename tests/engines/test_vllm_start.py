"""What vLLM is told of GPUs, and which engines start side by side on them: without a GPU."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cos.engines import vllm_start
from cos.engines.settings import EngineSettings
from cos.engines.vllm_start import engine_arguments, start_engines
from cos.search.errors import InputError

POLICY = EngineSettings(role="policy", model="/nowhere", memory_utilization=0.4)
PRM = EngineSettings(role="prm", model="/nowhere", memory_utilization=0.5)


class Starts:
    """Stands in for the start of an engine."""

    def __init__(self, at_once: int) -> None:
        self.begun: list[EngineSettings] = []
        self._together = threading.Barrier(max(at_once, 1))
        self._most = at_once
        self._running = 0

    def __call__(self, settings: EngineSettings, *, on_cpu: bool) -> EngineSettings:
        assert not on_cpu
        self.begun.append(settings)
        self._running += 1
        assert self._running <= self._most, "none starts before the other has its memory"
        self._together.wait(60)
        self._running -= 1
        return settings


def started(monkeypatch: pytest.MonkeyPatch, starts: Starts, *every: EngineSettings) -> list[Any]:
    """As on a machine with GPUs whose sizes it does not tell."""

    def placed(every: Sequence[EngineSettings]) -> list[EngineSettings]:
        return [replace(one, max_num_seqs=7) for one in every]

    def nothing(*_: object, **__: object) -> None: ...

    monkeypatch.setattr(vllm_start, "is_cpu_build", lambda: False)
    monkeypatch.setattr(vllm_start, "_start", starts)
    monkeypatch.setattr(vllm_start, "placed", placed)
    monkeypatch.setattr(vllm_start, "set_environment", nothing)
    monkeypatch.setattr(vllm_start, "spare_the_collector", nothing)
    return start_engines(every)


def test_engines_on_one_gpu_start_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = Starts(1)
    found = started(monkeypatch, starts, POLICY, PRM)
    assert found == starts.begun == [replace(one, max_num_seqs=7) for one in (POLICY, PRM)]


def test_engines_on_gpus_of_their_own_start_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = (replace(POLICY, devices=(0, 1), tensor_parallel_size=2), replace(PRM, devices=(2,)))
    found = started(monkeypatch, Starts(2), *pair)
    assert found == [replace(one, max_num_seqs=7) for one in pair]


def test_a_vllm_for_cpu_starts_no_engine_that_is_to_run_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_start, "_start", Starts(0))
    with pytest.raises(InputError, match="--policy-devices 1: this vLLM is built for CPU"):
        start_engines([replace(POLICY, devices=(1,))])


def test_vllm_is_told_gpus_shares_and_quantisation() -> None:
    told = engine_arguments(
        replace(PRM, devices=(2, 3), tensor_parallel_size=2, quantization="fp8", kv_cache_mib=64), on_cpu=False
    )
    wanted = {
        "device_ids": [2, 3],
        "tensor_parallel_size": 2,
        "quantization": "fp8",
        "gpu_memory_utilization": 0.5,
        "kv_cache_memory_bytes": 2**26,
        "enforce_eager": False,
    }
    assert {name: told[name] for name in wanted} == wanted
    bare = engine_arguments(EngineSettings(role="policy", model="/nowhere"), on_cpu=False)
    assert not {"device_ids", "quantization", "gpu_memory_utilization", "kv_cache_memory_bytes"} & {*bare}


def test_vllm_takes_device_ids_for_the_gpus_of_an_engine_and_counts_them_among_those_it_sees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vllm import AsyncEngineArgs
    from vllm.platforms import current_platform

    args = AsyncEngineArgs(**engine_arguments(replace(PRM, devices=(1, 2), tensor_parallel_size=2), on_cpu=False))
    resolve = args._resolve_device_ids  # pyright: ignore[reportPrivateUsage]
    variable = current_platform.device_control_env_var
    monkeypatch.delenv(variable, raising=False)
    assert resolve() == [1, 2]
    monkeypatch.setenv(variable, "4,5,6")
    assert resolve() == [5, 6]
    monkeypatch.setenv(variable, "4")
    with pytest.raises(ValueError, match="out of range"):
        resolve()
