"""What holds for a search whatever its strategy: sampling, ranking, limits."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from cos.search.budget import Limits
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The terms of one search."""

    sampling: Sampling
    ruler: Ruler
    limits: Limits
    speculate: bool
    """Whether what is likely wanted next is begun before it is decided."""
