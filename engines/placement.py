"""Which GPUs engines run on, and which share of their memory each gets: arithmetic over sizes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from cos.engines.demand import Demand, demand_of
from cos.engines.memory import GIB, Memory, gpu_memories
from cos.engines.settings import EngineSettings, Role
from cos.search.errors import InputError

logger = logging.getLogger(__name__)

WORKING_BYTES = GIB
"""What an engine needs beside weights and KV cache at the least: activations, and captured graphs."""
PROCESS_BYTES = GIB // 2
"""What an engine's process takes of a GPU outside of its share: its CUDA context."""
OF_UNKNOWN_SIZE: Mapping[Role, float] = {"policy": 5, "prm": 4}
"""How two engines divide a GPU where the size of a checkpoint cannot be told."""
NAMES: Mapping[Role, str] = {"policy": "policy", "prm": "PRM"}


def placed(
    every: Sequence[EngineSettings], gpus: Callable[[], Mapping[int, Memory]] = gpu_memories
) -> list[EngineSettings]:
    """Engines with their shares of the memory of their GPUs. ``gpus``: what there is; empty where it cannot be told.

    It blocks. Errors: InputError for GPUs that are not there, and for engines that cannot fit.
    """
    found = shares([demand_of(settings) for settings in every], gpus())
    for settings, share in zip(every, found, strict=True):
        numbers = ", ".join(map(str, settings.gpus))
        logger.info("the %s takes %g of the memory of GPU %s", NAMES[settings.role], share, numbers)
    return [replace(settings, memory_utilization=share) for settings, share in zip(every, found, strict=True)]


def refuse_gpus(every: Sequence[EngineSettings]) -> None:
    """For a vLLM that is built for CPU. Errors: InputError for engines that are to run on GPUs."""
    for settings in every:
        if settings.devices is not None:
            raise InputError(
                f"--{settings.role}-devices {','.join(map(str, settings.devices))}: this vLLM is built for CPU and "
                "uses no GPU; leave the devices out, or install cos-serve with its extra gpu",
                f"{settings.role}_devices",
            )


def are_apart(every: Sequence[EngineSettings]) -> bool:
    """Whether no two engines have a GPU in common."""
    return not any({*one.gpus} & {*other.gpus} for one, other in combinations(every, 2))


def shares(demands: Sequence[Demand], gpus: Mapping[int, Memory]) -> list[float]:
    """The share of each of its GPUs' memory that each engine gets. ``gpus``: what there is; empty where it cannot be
    told.

    What the user gave holds. The others get what their weights, one full context and their work take, and divide the
    rest so that their KV caches hold equally many tokens: policy and PRM see the same chains. Errors: InputError for
    GPUs that are not there, and for engines that cannot fit.
    """
    for demand in demands:
        missing = [gpu for gpu in demand.gpus if gpu not in gpus]
        if gpus and missing:
            raise InputError(
                f"the {NAMES[demand.role]} is to run on GPU {missing[0]}, and the GPUs here are "
                f"{', '.join(map(str, gpus))}; give others by --{demand.role}-devices, or fewer by "
                f"--{demand.role}-tensor-parallel-size",
                f"{demand.role}_devices",
            )
    found: dict[int, float] = {}
    for group in _groups(demands):
        found |= zip(group, _of_group([demands[place] for place in group], gpus), strict=True)
    return [found[place] for place in range(len(demands))]


def _groups(demands: Sequence[Demand]) -> list[list[int]]:
    """The places of those that share GPUs, directly or by others."""
    groups: list[list[int]] = []
    for place, demand in enumerate(demands):
        touching = [group for group in groups if any({*demands[other].gpus} & {*demand.gpus} for other in group)]
        joined = [*(other for group in touching for other in group), place]
        groups = [*(group for group in groups if group not in touching), joined]
    return groups


def _of_group(group: Sequence[Demand], gpus: Mapping[int, Memory]) -> list[float]:
    """Of engines that share GPUs."""
    total = min(demand.total_utilization for demand in group)
    given = sum(demand.utilization or 0 for demand in group)
    unsized = [demand for demand in group if demand.utilization is None]
    if given > 1 + 1e-9 or (unsized and given >= total):
        raise _too_much(group, total)
    rooms = [gpus[gpu] for demand in group for gpu in demand.gpus if gpu in gpus]
    if not rooms:
        own = iter(_divided(total - given, unsized))
    else:
        # Of GPUs that differ the smallest decides, as all of an engine's have the same share.
        room = min(rooms, key=lambda memory: memory.total_bytes)
        free = min(memory.free_bytes for memory in rooms)
        for demand in group:
            share = (demand.utilization or 0) * room.total_bytes
            if demand.utilization is not None and _least(demand) > share:
                raise _no_room([demand], room, share)
        if given * room.total_bytes > free:
            raise _not_free(group, room, given)
        free -= PROCESS_BYTES * len(group)
        budget = min((total - given) * room.total_bytes, free - given * room.total_bytes)
        if unsized and sum(map(_least, unsized)) > budget:
            raise _no_room(unsized, room, max(budget, 0))
        own = iter(size / room.total_bytes for size in _divided(budget, unsized))
    # Rounded down: together they stay below the whole.
    return [demand.utilization or math.floor(next(own) * 10_000) / 10_000 for demand in group]


def _divided(budget: float, group: Sequence[Demand]) -> list[float]:
    """A number of bytes, or a share, among engines."""
    if any(demand.weights_bytes is None for demand in group):
        return _in_proportion(budget, [OF_UNKNOWN_SIZE[demand.role] for demand in group])
    least = [_least(demand) for demand in group]
    if sum(least) > budget:
        # It is a share of a memory whose size is not known.
        return _in_proportion(budget, least)
    wants = [0 if demand.given_cache_bytes else demand.token_bytes for demand in group]
    known = [want for want in wants if want is not None]
    more = _in_proportion(budget - sum(least), known if len(known) == len(wants) and any(known) else least)
    return [size + spare for size, spare in zip(least, more, strict=True)]


def _in_proportion(whole: float, sizes: Sequence[float]) -> list[float]:
    return [whole * size / sum(sizes) for size in sizes]


def _least(demand: Demand) -> int:
    """What an engine cannot start below, as far as it is known."""
    return (demand.weights_bytes or 0) + WORKING_BYTES + _cache(demand)


def _cache(demand: Demand) -> int:
    return demand.given_cache_bytes or demand.context_bytes or 0


def _too_much(group: Sequence[Demand], total: float) -> InputError:
    """The shares that the user gave are more than there is, or leave nothing."""
    given = [demand for demand in group if demand.utilization is not None]
    flags = " and ".join(f"--{demand.role}-memory-utilization {demand.utilization:g}" for demand in given)
    gpu = group[0].gpus[0] if len(group) == 1 else min({*group[0].gpus}.intersection(*(one.gpus for one in group[1:])))
    apart = "give the models different GPUs by --policy-devices and --prm-devices"
    whole = sum(demand.utilization or 0 for demand in given)
    if whole > 1:
        why = f"{flags} are {whole:g} of GPU {gpu} together"
        todo = f"give shares that are at most 1 together, or {apart}"
    else:
        other = next(NAMES[demand.role] for demand in group if demand.utilization is None)
        why = f"of the {total:g} of GPU {gpu} that all engines on it may take, {flags} leaves the {other} nothing"
        todo = f"lower it, raise --memory-utilization, or {apart}"
    return InputError(f"{why}; {todo}", f"{given[0].role}_memory_utilization")


def _not_free(group: Sequence[Demand], room: Memory, given: float) -> InputError:
    """The shares that the user gave are more than is free."""
    flags = [f"--{demand.role}-memory-utilization" for demand in group if demand.utilization is not None]
    wanted = f"{' and '.join(flags)} ask for {_gib(given * room.total_bytes)} of {room.name}"
    return InputError(
        f"{wanted}, and {_gib(room.free_bytes)} of {_gib(room.total_bytes)} are free; lower them, or stop what else "
        "uses the GPU",
        flags[0].removeprefix("--").replace("-", "_"),
    )


def _no_room(group: Sequence[Demand], room: Memory, budget: float) -> InputError:
    """Engines that cannot start in so many bytes."""
    told: list[str] = []
    for demand in group:
        cache = _cache(demand)
        context = "" if demand.given_cache_bytes else f" for one context of {demand.context_tokens or 0:,} tokens"
        told.append(
            f"the {NAMES[demand.role]} {_gib(_least(demand))} ({_gib(demand.weights_bytes or 0)} of weights, "
            f"{_gib(cache)} of KV cache{context if cache else ''}, {_gib(WORKING_BYTES)} to work in)"
        )
    largest = max(group, key=_least)
    todo = ["give smaller or quantised checkpoints"]
    if budget < sum(map(_least, group)) - sum(map(_cache, group)):
        todo.append(f"spread the larger model over more GPUs by --{largest.role}-devices")
    else:
        longest = max(group, key=_cache)
        cache = "kv-cache-mib" if longest.given_cache_bytes else "max-model-len"
        todo.append(f"lower --{longest.role}-{cache}")
    if len(group) > 1:
        todo.append("put the models on different GPUs by --policy-devices and --prm-devices")
    if largest.utilization is not None:
        todo.append(f"change --{largest.role}-memory-utilization {largest.utilization:g}")
    if room.free_bytes < room.total_bytes * largest.total_utilization:
        todo.append("stop what else uses the GPU")
    there = f"{_gib(budget)} of {room.name}, which has {_gib(room.total_bytes)}, {_gib(room.free_bytes)} of them free"
    wanted = f"{' and '.join(told)} {'do' if len(told) > 1 else 'does'} not fit into {there}"
    return InputError(f"{wanted}; {', '.join(todo[:-1])}, or {todo[-1]}", largest.role)


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
