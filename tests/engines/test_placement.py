"""Which share of its GPUs each engine gets: tables of sizes, without a GPU."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from cos.engines.demand import Demand
from cos.engines.memory import GIB, Memory, visible
from cos.engines.placement import PROCESS_BYTES, WORKING_BYTES, are_apart, placed, refuse_gpus, shares
from cos.engines.settings import EngineSettings
from cos.search.errors import InputError

KIB = 2**10


def policy(weights: float | None, cache: float = 0, token_kib: float | None = None, **own: Any) -> Demand:
    """Sizes in GiB, and in KiB a token."""
    return Demand(
        role="policy",
        weights_bytes=None if weights is None else int(weights * GIB),
        context_bytes=int(cache * GIB),
        context_tokens=1000,
        token_bytes=None if token_kib is None else int(token_kib * KIB),
        **own,
    )


def prm(weights: float | None, cache: float = 0, token_kib: float | None = None, **own: Any) -> Demand:
    return replace(policy(weights, cache, token_kib, **own), role="prm")


def gpus(*total: float, free: float | None = None) -> Mapping[int, Memory]:
    """In GiB."""
    return {
        number: Memory(f"the memory of GPU {number}", int(size * GIB), int((size if free is None else free) * GIB))
        for number, size in enumerate(total)
    }


WORK = WORKING_BYTES / GIB
ROOM = gpus(80)
SPLITS = {
    "equals": ((policy(15, 2, 56), prm(15, 2, 56)), ROOM, (0.45, 0.45)),
    "the rest by the cache of a token": (
        (policy(15, 1, 50), prm(30, 3, 150)),
        ROOM,
        ((16 + WORK + (72 - 49 - 2 * WORK) / 4) / 80, (33 + WORK + (72 - 49 - 2 * WORK) * 3 / 4) / 80),
    ),
    "the rest by sizes where a cache is not known": ((policy(10), prm(20 + WORK, 0, 80)), ROOM, (0.3, 0.6)),
    "a cache that was given is no larger": (
        (policy(15, 9, 56, given_cache_bytes=4 * GIB), prm(15, 2, 56)),
        ROOM,
        ((19 + WORK) / 80, 0.9 - (19 + WORK) / 80),
    ),
    "the other's share was given": ((policy(15, 2, 56, utilization=0.3), prm(15, 2, 56)), ROOM, (0.3, 0.6)),
    "both shares were given": (
        (policy(15, 2, 56, utilization=0.3), prm(15, 2, 56, utilization=0.65)),
        ROOM,
        (0.3, 0.65),
    ),
    "the whole was given": (
        (policy(15, 2, 56, total_utilization=0.6), prm(15, 2, 56, total_utilization=0.6)),
        ROOM,
        (0.3, 0.3),
    ),
    "something else holds a part": (
        (policy(15, 2, 56), prm(15, 2, 56)),
        gpus(80, free=50),
        (0.3063, 0.3063),
    ),
    "alone": ((policy(15, 2, 56),), ROOM, (0.9,)),
    "alone, given": ((policy(15, 2, 56, utilization=0.5),), ROOM, (0.5,)),
    "apart": ((policy(15, 2, 56), prm(15, 2, 56, gpus=(1,))), gpus(80, 80), (0.9, 0.9)),
    "apart, over two": (
        (policy(15, 2, 56, gpus=(0, 1)), prm(15, 2, 56, gpus=(2,))),
        gpus(80, 80, 80),
        (0.9, 0.9),
    ),
    "apart, and each share as if alone": (
        (policy(15, utilization=0.95), prm(15, gpus=(1,), utilization=0.95)),
        gpus(80, 80),
        (0.95, 0.95),
    ),
    "one in common": ((policy(15, 2, 56), prm(15, 2, 56, gpus=(0, 1))), gpus(80, 80), (0.45, 0.45)),
    "the smaller of two decides": ((policy(15, gpus=(0, 1)), prm(15, gpus=(0, 1))), gpus(80, 40), (0.45, 0.45)),
    "a size is not known": ((policy(None, 2, 56), prm(15, 2, 56)), ROOM, (0.5, 0.4)),
    "the GPU is not known": ((policy(10 - WORK), prm(20 - WORK)), {}, (0.3, 0.6)),
    "nothing is known": ((policy(None), prm(None)), {}, (0.5, 0.4)),
}


@pytest.mark.parametrize("name", SPLITS)
def test_engines_on_one_gpu_share_it_by_their_sizes(name: str) -> None:
    demands, room, wanted = SPLITS[name]
    assert shares(demands, room) == pytest.approx(wanted, abs=2e-4)
    assert sorted(shares(demands[::-1], room)) == pytest.approx(sorted(wanted), abs=2e-4)


def test_shares_are_never_more_than_what_there_is_and_leave_each_what_it_cannot_do_without() -> None:
    for weights in (0.1, 1, 7, 15, 33):
        for token_kib in (1, 56, 320, None):
            for free in (45, 60, 80):
                pair = (policy(3, 1, 28), prm(weights, 2, token_kib))
                found = shares(pair, gpus(80, free=free))
                assert sum(found) * 80 <= min(72, free - 2 * PROCESS_BYTES / GIB)
                assert found[0] * 80 >= 4 + WORK - 0.01
                assert found[1] * 80 >= weights + 2 + WORK - 0.01


REFUSED = {
    "two that are too large": (
        (policy(15.5, 2, 56), prm(7, 1, 36)),
        gpus(24),
        ("the policy 18.5 GiB (15.5 GiB of weights", "the PRM 9.0 GiB", "21.6 GiB of the memory of GPU 0"),
        ("smaller or quantised", "--policy-devices and --prm-devices"),
    ),
    "one that is too large": ((policy(30),), gpus(24), ("30.0 GiB of weights",), ("--policy-devices",)),
    "a context that is too long": (
        (policy(15, 30, 56),),
        gpus(40),
        ("30.0 GiB of KV cache for one context of 1,000 tokens",),
        ("--policy-max-model-len",),
    ),
    "a cache that is too large": (
        (policy(15, 2, 56), prm(15, 2, 56, given_cache_bytes=50 * GIB)),
        ROOM,
        ("50.0 GiB of KV cache",),
        ("--prm-kv-cache-mib",),
    ),
    "its share is too small": (
        (policy(15, utilization=0.1), prm(15)),
        ROOM,
        ("into 8.0 GiB",),
        ("--policy-memory-utilization 0.1",),
    ),
    "what is left is too small": (
        (policy(15, utilization=0.8), prm(15)),
        ROOM,
        ("the PRM 16.0 GiB", "into 8.0 GiB"),
        ("smaller",),
    ),
    "nothing is left": (
        (policy(15, utilization=0.95), prm(15)),
        ROOM,
        ("leaves the PRM nothing",),
        ("--memory-utilization", "--prm-devices"),
    ),
    "one GPU in both lists, each share as if alone": (
        (policy(15, utilization=0.9, gpus=(0, 1)), prm(15, utilization=0.9, gpus=(1,))),
        gpus(80, 80),
        ("--policy-memory-utilization 0.9 and --prm-memory-utilization 0.9 are 1.8 of GPU 1",),
        ("at most 1 together", "--prm-devices"),
    ),
    "something else holds the GPU": ((policy(15), prm(15)), gpus(80, free=20), ("20.0 GiB of them free",), ("stop",)),
    "something else holds a share that was given": (
        (policy(15, utilization=0.9),),
        gpus(80, free=40),
        ("72.0 GiB of the memory of GPU 0, and 40.0 GiB of 80.0 GiB are free",),
        ("stop what else",),
    ),
    "no such GPU": (
        (policy(15), prm(15, gpus=(2, 3))),
        gpus(80, 80, 80),
        ("the PRM is to run on GPU 3, and the GPUs here are 0, 1, 2",),
        ("--prm-devices",),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_fit_is_refused_with_sizes_and_what_to_do(name: str) -> None:
    demands, room, why, todo = REFUSED[name]
    with pytest.raises(InputError) as error:
        shares(demands, room)
    found, semicolon, advice = str(error.value).partition("; ")
    assert semicolon
    assert ";" not in advice
    for part in why:
        assert part in found
    for part in todo:
        assert part in advice


def engine(role: Any = "policy", **own: Any) -> EngineSettings:
    return EngineSettings(role=role, model="/nowhere", **own)


def test_engines_with_their_own_gpus_are_apart() -> None:
    assert are_apart([engine(devices=(0, 1)), engine("prm", devices=(2,))])
    assert not are_apart([engine(devices=(0, 1)), engine("prm", devices=(1, 2))])
    assert not are_apart([engine(), engine("prm")])
    assert not are_apart([engine(tensor_parallel_size=2), engine("prm", devices=(1,))])
    assert are_apart([engine()])


def test_an_engine_is_given_its_share_and_keeps_all_else() -> None:
    pair = [engine(devices=(0,), max_num_seqs=3), engine("prm", devices=(0,), memory_utilization=0.3)]
    of_policy, of_prm = placed(pair, lambda: ROOM)
    assert of_policy == replace(pair[0], memory_utilization=0.6)
    assert of_prm == pair[1]


def test_a_vllm_for_cpu_refuses_gpus() -> None:
    refuse_gpus([engine(), engine("prm")])
    with pytest.raises(InputError, match=r"--prm-devices 0,1: this vLLM is built for CPU and uses no GPU; leave"):
        refuse_gpus([engine(), engine("prm", devices=(0, 1))])


TOLD = """0, GPU-aaaa-1, 81559, 80000
1, GPU-bbbb-2, 24564, 24000
2, GPU-cccc-3, 24564, 100
"""


@pytest.mark.parametrize(
    ("devices", "mebibytes"),
    [
        (None, [81559, 24564, 24564]),
        ("", [81559, 24564, 24564]),
        ("2,0", [24564, 81559]),
        ("GPU-bbbb-2", [24564]),
        ("GPU-a", [81559]),
    ],
)
def test_gpus_are_counted_as_cuda_visible_devices_has_them(devices: str | None, mebibytes: list[int]) -> None:
    found = visible(TOLD, devices)
    assert [*found] == [*range(len(mebibytes))]
    assert [memory.total_bytes // 2**20 for memory in found.values()] == mebibytes
    assert visible(TOLD, "7,1") == {1: Memory("the memory of GPU 1", 24564 * 2**20, 24000 * 2**20)}
    assert visible("", None) == {}
