"""What holds for a search whatever its strategy: sampling, ranking, limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cos.search.budget import Limits
from cos.search.errors import InputError
from cos.search.select import Ruler


class Sampling(BaseModel):
    """How the policy samples."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Sampling temperature of the policy. The greedy strategy always uses 0, and auto for a step's first candidate."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling threshold."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Root seed; every candidate's own seed follows from it and its place in the tree."""
    step_tokens: Annotated[int, Field(ge=1, le=8192)] = 512
    """Longest step, in tokens."""
    max_steps: Annotated[int, Field(ge=1, le=64)] = 16
    """Most steps before the answer; a chain whose next piece is yet another step ends there without one."""


def parse_sampling(given: Mapping[str, Any]) -> Sampling:
    """How the policy is to sample. Errors: InputError naming the value and what is allowed."""
    try:
        return Sampling.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{name} = {first['input']!r}: {first['msg']}", name) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The terms of one search."""

    sampling: Sampling
    ruler: Ruler
    limits: Limits
    speculate: bool
    """Whether what is likely wanted next is begun before it is decided."""
