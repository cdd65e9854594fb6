"""Measurements on engines of this process."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from cos.benchmarks import barrier, cost, limit
from cos.benchmarks.barrier import InProcess
from cos.benchmarks.gpu.contract import Trees, contract_facts, trees_of
from cos.benchmarks.gpu.sizes import Sizes
from cos.benchmarks.setting import Setting
from cos.benchmarks.side_by_side import compare
from cos.checkpoints import LedgerProblem
from cos.engines.memory import gpu_memories
from cos.engines.ports import HasMetrics, Runtime
from cos.evaluation.in_process import OpenModels
from cos.evaluation.provenance import Facts

CACHE = "vllm:cache_config_info"
"""vLLM's metric whose labels say how its KV cache is laid out."""
CACHE_LABELS = ("num_gpu_blocks", "block_size", "gpu_memory_utilization", "kv_cache_memory_bytes", "cache_dtype")


@dataclass(slots=True)
class Here:
    """What a measurement in process has."""

    opened: OpenModels
    problems: Sequence[LedgerProblem]
    """In the seed's order."""
    sizes: Sizes
    seed: int
    reference: Trees | None
    """What the pair wrote that this one is widened from; None where it was not asked, or is this one."""
    trees: Trees | None = None
    """What this pair wrote."""

    def setting(self, strategy: str) -> Setting:
        """A strategy with this plan's width."""
        return Setting(strategy=strategy, n=self.sizes.n).fitted()


Work = Callable[[Here], Awaitable[Facts]]
"""A measurement. Errors: CosError where searches fail."""


async def measure_contract(here: Here) -> Facts:
    """Whether the pair searches as the one that it is widened from; see `cos.benchmarks.gpu.contract`."""
    chosen = here.problems[: here.sizes.contract_problems]
    here.trees = await trees_of(
        here.opened.models, chosen, here.seed, here.sizes.contract_at_once, here.sizes.contract_strategies
    )
    return contract_facts(here.trees, here.reference)


async def measure_limit(here: Here) -> Facts:
    """Efficiency of ``beam`` against the engines' own floor; see `cos.benchmarks.limit`."""
    sizes = here.sizes
    return await limit.measure(
        here.opened, here.problems, here.setting("beam"), sizes.limit_levels, sizes.limit_rounds, here.seed
    )


async def measure_barrier(here: Here) -> Facts:
    """Ours beside one search at a time, level by level; see `cos.benchmarks.barrier`."""
    sizes = here.sizes
    levels = (sizes.barrier_level,)
    return await barrier.measure(
        here.opened, here.problems, here.setting("beam"), levels, sizes.barrier_rounds, here.seed
    )


async def measure_prm_share(here: Here) -> Facts:
    """What scoring costs of the whole: ``best_of_n`` with the PRM's scores and with the policy's likelihood, in
    turns."""
    sizes, scored = here.sizes, here.setting("best_of_n")
    ours = InProcess(here.opened, here.opened.models, scored, here.seed)
    without = InProcess(here.opened, here.opened.models, replace(scored, score="likelihood"), here.seed)
    levels = (sizes.barrier_level,)
    results = await compare(ours, without, here.problems, levels, sizes.barrier_rounds, here.seed, "without_prm")
    return {"prm_share": 1 - results[-1]["speedup"], "results": results}


async def measure_cost(here: Here) -> Facts:
    """Tokens that both engines computed over those that the chains need; see `cos.benchmarks.cost`."""
    chosen = here.problems[: here.sizes.cost_problems]
    found: Facts = {}
    for strategy in ("best_of_n", "beam"):
        setting, at_once = here.setting(strategy), here.sizes.barrier_level
        found[strategy] = await cost.measure(here.opened, chosen, setting, here.seed, at_once)
    return found


async def measure_memory(here: Here) -> Facts:
    """How the two engines share the memory: KV caches, and what is free of each GPU."""
    engines = here.opened.engines
    gpus = {str(number): memory for number, memory in gpu_memories().items()}
    return {
        "policy_cache": cache_of(engines.policy),
        "prm_cache": None if engines.prm is None else cache_of(engines.prm),
        "gpus": {number: {"total": one.total_bytes, "free": one.free_bytes} for number, one in gpus.items()},
    }


def cache_of(runtime: Runtime) -> dict[str, Any] | None:
    """How an engine's KV cache is laid out, as it says; None for one that does not."""
    if not isinstance(runtime, HasMetrics):
        return None
    samples = (sample for metric in runtime.registry.collect() for sample in metric.samples)
    labels = next((sample.labels for sample in samples if sample.name == CACHE), None)
    return None if labels is None else {name: labels.get(name) for name in CACHE_LABELS}


WORK: Mapping[str, Work] = MappingProxyType(
    {
        "contract": measure_contract,
        "limit": measure_limit,
        "barrier": measure_barrier,
        "prm_share": measure_prm_share,
        "cost": measure_cost,
        "memory": measure_memory,
    }
)
MEASUREMENTS = tuple(WORK)
