"""Whether two models fit the memory that is there, by the sizes of their weights."""

from collections.abc import Callable, Mapping, Sequence

from cos.engines.demand import Demand, demand_of
from cos.engines.environment import CPU_KV_CACHE_MIB
from cos.engines.memory import GIB, Memory
from cos.engines.placement import NAMES, refuse_gpus, shares
from cos.engines.settings import EngineSettings
from cos.search.errors import InputError
from cos.server.checks.finding import Finding, refused

NAME = "memory"


def check_main_memory(every: Sequence[EngineSettings], memory: Callable[[], Memory | None]) -> list[Finding]:
    """Compares weights and KV caches with the memory of a CPU; nothing for no engines. It blocks."""
    try:
        refuse_gpus(every)
    except InputError as error:
        return [refused("GPUs", error, "leave the devices out")]
    demands = [demand_of(settings, on_cpu=True) for settings in every]
    if not demands:
        return []
    if (unknown := _unknown(demands)) is not None:
        return [unknown]
    room = memory()
    if room is None:
        return [Finding(name=NAME, state="ok", found="this machine does not tell how much there is")]
    return [_of_cpu(demands, room)]


def check_gpus(every: Sequence[EngineSettings], gpus: Callable[[], Mapping[int, Memory]]) -> list[Finding]:
    """Tells which share of its GPUs each engine gets; nothing for no engines. It blocks."""
    demands = [demand_of(settings) for settings in every]
    if not demands:
        return []
    there = gpus()
    try:
        found = shares(demands, there)
    except InputError as error:
        return [refused(NAME, error, "give smaller checkpoints")]
    if (unknown := _unknown(demands)) is not None:
        return [unknown]
    told = [_told(demand, share, there) for demand, share in zip(demands, found, strict=True)]
    return [Finding(name=NAME, state="ok", found=", ".join(told))]


def _unknown(demands: Sequence[Demand]) -> Finding | None:
    unknown = next((demand for demand in demands if demand.weights_bytes is None), None)
    if unknown is None:
        return None
    return Finding(
        name=NAME, state="ok", found=f"not known before the {NAMES[unknown.role]}'s weights have been downloaded"
    )


def _told(demand: Demand, share: float, gpus: Mapping[int, Memory]) -> str:
    weights = f"{NAMES[demand.role]}: {(demand.weights_bytes or 0) / GIB:.1f} GiB of weights in {share:g}"
    if not gpus:
        return f"{weights} of its GPU, whose size is not known"
    sizes = " and ".join(f"GPU {gpu} ({gpus[gpu].total_bytes / GIB:.1f} GiB)" for gpu in demand.gpus)
    return f"{weights} of {sizes}"


def _of_cpu(demands: Sequence[Demand], room: Memory) -> Finding:
    default = CPU_KV_CACHE_MIB * 2**20
    wanted = {demand.role: (demand.weights_bytes or 0) + (demand.given_cache_bytes or default) for demand in demands}
    total = sum(wanted.values())
    parts = " and ".join(f"{NAMES[demand.role]} {wanted[demand.role] / GIB:.1f} GiB" for demand in demands)
    found = (
        f"weights and KV caches take {parts}; {room.name} is {room.total_bytes / GIB:.1f} GiB, "
        f"{room.free_bytes / GIB:.1f} GiB of it free"
    )
    largest = max(wanted, key=lambda role: wanted[role])
    if total > room.total_bytes:
        return Finding(
            name=NAME,
            state="refused",
            found=found,
            todo="give smaller or quantised checkpoints, lower --kv-cache-mib, or take a machine with more memory",
            param=largest,
        )
    if total > room.free_bytes:
        todo = "stop what else uses the memory, or lower --kv-cache-mib"
        return Finding(name=NAME, state="warning", found=found, todo=todo, param=largest)
    return Finding(name=NAME, state="ok", found=found)
