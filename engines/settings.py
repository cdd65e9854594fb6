"""How one model is to be run."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["policy", "prm"]
RuntimeName = Literal["vllm", "scripted"]

SCRIPTED = "scripted"
"""What a user gives as a model to have none."""


def runtime_of(model: str) -> RuntimeName:
    """What runs the model that a user has named."""
    return "scripted" if model == SCRIPTED else "vllm"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """One engine's share of the machine. Defaults suit the embedded checkpoints on a laptop's CPU."""

    role: Role
    model: str
    """A folder or a hub name, as for ``vllm serve``. A runtime without a model does not look at it."""
    runtime: RuntimeName = "vllm"
    """What runs it; see `cos.engines.launch`."""
    grammar: str = "auto"
    """The step grammar by name. A runtime without a model writes in it; a model writes as it was trained or told to."""
    max_model_len: int | None = None
    """Longest prompt + continuation, tokens; the model's own limit unless given."""
    max_num_seqs: int = 256
    """Sequences that run at once; more wait in the engine's queue."""
    dtype: str = "auto"
    """What the engine computes in. ``auto`` is the checkpoint's own, but float32 on a CPU without bfloat16, and for a
    PRM on one without AMX."""
    tensor_parallel_size: int = 1
    memory_utilization: float = 0.45
    """Share of a GPU's memory; not used on CPU."""
    kv_cache_mib: int | None = None
    """Size of the KV cache; 256 MiB on CPU and whatever the memory share leaves on GPU unless given."""
    threads: int | None = None
    """Compute threads on CPU; half of the cores unless given."""
    enforce_eager: bool | None = None
    """No graph capture or compilation. True on CPU and False on GPU unless given."""
    trust_remote_code: bool = False
    """Run code that comes with a checkpoint."""
