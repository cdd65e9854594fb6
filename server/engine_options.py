"""What can be said of both engines, and of each by itself."""

from typing import Annotated, Any, Literal, Optional

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from cos.engines.settings import Role

MEMORY_UTILIZATION: dict[Role, float] = {"policy": 0.5, "prm": 0.4}
"""Both fit on one GPU."""


def flag(default: Any, group: str, metavar: str | None = None, **bounds: Any) -> Any:
    """A field with its place and its placeholder in ``--help``."""
    return Field(default=default, json_schema_extra={"group": group, "metavar": metavar}, **bounds)


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
    tensor_parallel_size: int = flag(1, "engines", "N", ge=1)
    """GPUs per engine."""
    memory_utilization: float | None = flag(None, "engines", "SHARE", gt=0, le=1)
    """An engine's share of a GPU's memory; 0.5 for the policy and 0.4 for the PRM unless given."""
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
        description=f"--{name.replace('_', '-')} of the {engine} alone.",
        json_schema_extra={"group": f"{engine} engine", "metavar": place["metavar"]},
    )
    # Python has no other spelling for a union with a type that is known when the program runs.
    return Annotated[Optional[field.annotation], *field.metadata, own], None  # noqa: UP045


def _own(role: Role) -> dict[str, Any]:
    return {f"{role}_{name}": _of_one_engine(role, name, field) for name, field in EngineOptions.model_fields.items()}


EachEngineOptions = create_model("EachEngineOptions", __base__=EngineOptions, **_own("policy"), **_own("prm"))
"""The same, and every one with ``policy_`` and ``prm_`` before its name for one engine alone."""


def options_of(role: Role, every: EngineOptions) -> dict[str, Any]:
    """What holds for one engine: its own option where it is set, else the common one."""
    found: dict[str, Any] = {}
    for name in EngineOptions.model_fields:
        own = getattr(every, f"{role}_{name}")
        found[name] = getattr(every, name) if own is None else own
    if found["memory_utilization"] is None:
        found["memory_utilization"] = MEMORY_UTILIZATION[role]
    return found
