"""How one engine is to be started."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["policy", "prm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """One engine's share of the machine. Defaults suit the embedded checkpoints on a laptop's CPU."""

    role: Role
    model: str
    """A folder or a hub name, as for ``vllm serve``."""
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
    """Compute threads on CPU; half of the cores unless given. Engines started together have the larger number."""
    enforce_eager: bool | None = None
    """No graph capture or compilation. True on CPU and False on GPU unless given."""
    trust_remote_code: bool = False
    question_suffix: str = ""
    """Put behind every question on a line of its own (a trigger sentence the checkpoint was trained with)."""
