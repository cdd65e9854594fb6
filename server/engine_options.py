"""What can be said of both engines, and of each by itself."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Optional

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo
from pydantic_settings import NoDecode

from cos.engines.settings import Role
from cos.search.errors import InputError


def flag(default: Any, group: str, metavar: str | None = None, **bounds: Any) -> Any:
    """A field with its place and its placeholder in ``--help``."""
    return Field(default=default, json_schema_extra={"group": group, "metavar": metavar}, **bounds)


def _numbers(value: Any) -> Any:
    """Numbers of GPUs as a flag or a file has them. Errors: ValueError."""
    if value is None:
        return None
    parts = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else [*value]
    written = [str(part).strip() for part in parts]
    if not written or not all(part.isascii() and part.isdigit() for part in written):
        raise ValueError("expected the numbers of GPUs, as 0,1")
    numbers = [*map(int, written)]
    twice = next((number for number in numbers if numbers.count(number) > 1), None)
    if twice is not None:
        raise ValueError(f"names GPU {twice} twice; name each GPU once")
    return tuple(numbers)


class EngineOptions(BaseModel):
    """How engines are started, both alike. The names are those of `cos.engines.settings.EngineSettings`."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    max_model_len: int | None = flag(None, "engines", "TOKENS", ge=1)
    """Longest prompt and chain; the model's own limit unless given."""
    max_num_seqs: int = flag(256, "engines", "N", ge=1)
    """Sequences an engine runs at once."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = flag("auto", "engines")
    """Number format of the weights; auto is the checkpoint's own, but float32 on a CPU without bfloat16, and for the
    PRM on a CPU without AMX."""
    quantization: str | None = flag(None, "engines", "METHOD")
    """How vLLM is to quantise weights while it loads them, as "fp8". A checkpoint that is quantised already says so
    itself, in its config.json."""
    devices: Annotated[tuple[int, ...] | None, NoDecode, BeforeValidator(_numbers)] = flag(None, "engines", "N,N")
    """The GPUs that an engine runs on, as 0,1; the first ones unless given. Where CUDA_VISIBLE_DEVICES is set, they are
    counted within it."""
    tensor_parallel_size: int | None = flag(None, "engines", "N", ge=1)
    """How many GPUs the weights of an engine are spread over; all of its --devices unless given, or one."""
    memory_utilization: float | None = flag(None, "engines", "SHARE", gt=0, le=1)
    """Share of a GPU's memory that all engines on it take together; 0.9 unless given. What each of them gets of it
    follows from the sizes of the checkpoints, or is given by the flag for one engine."""
    kv_cache_mib: int | None = flag(None, "engines", "MIB", ge=1)
    """Size of an engine's KV cache; 256 MiB on CPU and what the memory share leaves on GPU unless given."""
    threads: int | None = flag(None, "engines", "N", ge=1)
    """Compute threads of an engine on CPU; half of the cores unless given."""
    enforce_eager: bool | None = flag(None, "engines")
    """Neither graph capture nor compilation; on for CPU and off for GPU unless given."""
    trust_remote_code: bool = flag(False, "engines")
    """Run code that comes with a checkpoint."""


def _of_one_engine(role: Role, name: str, field: FieldInfo) -> Any:
    """The option for one engine alone: unset, the common one holds."""
    place: Any = field.json_schema_extra
    engine = "policy" if role == "policy" else "PRM"
    own = Field(
        description=OF_ONE.get(name, "--{flag} of the {engine} alone.").format(
            flag=name.replace("_", "-"), engine=engine
        ),
        json_schema_extra={"group": f"{engine} engine", "metavar": place["metavar"]},
    )
    # Python has no other spelling for a union with a type that is known when the program runs.
    return Annotated[Optional[field.annotation], *field.metadata, own], None  # noqa: UP045


OF_ONE: Mapping[str, str] = MappingProxyType(
    {"memory_utilization": "The {engine}'s own share of the memory of its GPUs."}
)
"""What is no part of the common option of its name."""


def _own(role: Role) -> dict[str, Any]:
    return {f"{role}_{name}": _of_one_engine(role, name, field) for name, field in EngineOptions.model_fields.items()}


EachEngineOptions = create_model("EachEngineOptions", __base__=EngineOptions, **_own("policy"), **_own("prm"))
"""The same, and every one with ``policy_`` and ``prm_`` before its name for one engine alone."""


HERE_AND_ELSEWHERE = ("max_model_len", "max_num_seqs", "trust_remote_code")
"""Options that hold for a model on another server, too: how long chains may be, how many may run at once, and whether
code that comes with its tokenizer is run here."""


def check_elsewhere(role: Role, url: str, every: EngineOptions) -> None:
    """For a model on another server. Errors: InputError for an option of its engine, which is that server's own."""
    for name in EngineOptions.model_fields:
        if name not in HERE_AND_ELSEWHERE and getattr(every, f"{role}_{name}") is not None:
            flag_ = f"--{role}-{name.replace('_', '-')}"
            raise InputError(
                f"{flag_} is for an engine of this server, and --{role}-url {url} is elsewhere; leave it out, and give "
                "that server what it needs as it starts",
                f"{role}_{name}",
            )


def options_of(role: Role, every: EngineOptions) -> dict[str, Any]:
    """What holds for one engine: its own option where it is set, else the common one. Errors: InputError for a number
    of GPUs that is not that of its list."""
    found: dict[str, Any] = {}
    for name in EngineOptions.model_fields:
        own = getattr(every, f"{role}_{name}")
        found[name] = getattr(every, name) if own is None else own
    # The common share is that of all engines on a GPU.
    found["memory_utilization"] = getattr(every, f"{role}_memory_utilization")
    if every.memory_utilization is not None:
        found["total_memory_utilization"] = every.memory_utilization
    devices, size = found["devices"], found["tensor_parallel_size"]
    if devices is not None and size not in (None, len(devices)):
        raise InputError(
            f"the {'policy' if role == 'policy' else 'PRM'} has {len(devices)} GPUs ({', '.join(map(str, devices))}) "
            f"and a tensor parallel size of {size}; leave out --tensor-parallel-size, or give as many --{role}-devices",
            f"{role}_devices",
        )
    found["tensor_parallel_size"] = size or len(devices or (0,))
    return found
