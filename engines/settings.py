"""How one model is to be run."""

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["policy", "prm"]
RuntimeName = Literal["vllm", "remote", "scripted"]

SCRIPTED = "scripted"
"""What a user gives as a model to have none."""


def runtime_of(model: str, url: str | None = None) -> RuntimeName:
    """What runs the model that a user has named, at the address of another server if one was given."""
    if url is not None:
        return "remote"
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
    max_images: int = 8
    """Most pictures in a prompt."""
    max_num_seqs: int = 256
    """Sequences that run at once; more wait in the engine's queue."""
    dtype: str = "auto"
    """What the engine computes in. ``auto`` is the checkpoint's own, but float32 on a CPU without bfloat16, and for a
    PRM on one without AMX."""
    quantization: str | None = None
    """As vLLM's ``quantization``: how the weights are quantised. A checkpoint's config.json says so by itself; for one
    that is not quantised, how vLLM is to do it while it loads."""
    devices: tuple[int, ...] | None = None
    """The GPUs it runs on, as vLLM's ``device_ids`` counts them; the first ones unless given."""
    tensor_parallel_size: int = 1
    """How many GPUs its weights are spread over."""
    memory_utilization: float | None = None
    """Its own share of each of its GPUs' memory; unless given, by the sizes of the checkpoints on them
    (`cos.engines.placement`). Not used on CPU."""
    total_memory_utilization: float = 0.9
    """Share of a GPU's memory that all engines on it may take together."""
    kv_cache_mib: int | None = None
    """Size of the KV cache; 256 MiB on CPU and whatever the memory share leaves on GPU unless given."""
    threads: int | None = None
    """Compute threads on CPU; half of the cores unless given."""
    enforce_eager: bool | None = None
    """No graph capture or compilation. True on CPU and False on GPU unless given."""
    trust_remote_code: bool = False
    """Run code that comes with a checkpoint."""
    adapter: str | None = None
    """A LoRA adapter over the model's weights that is the PRM and runs in the same engine: a folder or a hub name."""
    url: str | None = None
    """Where the vLLM is that runs it, where that is not this process. ``model`` is then what is served there, or the
    checkpoint that it was made of: its tokenizer and chat template are needed here, too."""
    api_key: str | None = field(default=None, repr=False)
    """The key that the other server asks for."""
    timeout_s: float = 300.0
    """Longest wait for the other server's answer to one request."""
    retries: int = 2
    """How often a request is repeated that the other server did not get, or put off."""

    @property
    def gpus(self) -> tuple[int, ...]:
        """The GPUs it runs on where it does not run on CPU."""
        return tuple(range(self.tensor_parallel_size)) if self.devices is None else self.devices
