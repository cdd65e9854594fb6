"""The keys of stages that make another checkpoint of one without training it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cos.training.config.keys import StageKeys
from cos.training.config.names import Checkpoint
from cos.training.config.section import Keys


class ExportConfig(StageKeys):
    """Writes a checkpoint as it is to be shipped: in the number format it is served in."""

    stage: Literal["export"] = "export"
    model: Checkpoint
    """The checkpoint."""
    averaged_with: tuple[Checkpoint, ...] = ()
    """Checkpoints of the same training: what is written is the mean of all their weights and its own (a model soup,
    arXiv 2203.05482), which is often better, better calibrated and less sensitive to rounding than the last alone."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Number format of the weights."""


class ShapeKeys(Keys):
    """The sizes of a text model, in the names of its config.json."""

    hidden_size: int = Field(ge=1)
    """Channels of a token."""
    intermediate_size: int = Field(ge=1)
    """Channels inside the MLP."""
    num_hidden_layers: int = Field(ge=1)
    """Layers."""
    num_attention_heads: int = Field(ge=1)
    """Heads. Each has hidden_size / num_attention_heads channels."""
    num_key_value_heads: int = Field(ge=1)
    """Heads that have keys and values."""


class WidenConfig(StageKeys):
    """Makes a checkpoint as large as another model without a change to what it computes: to measure what serving such a
    model costs. Give policy or prm, and to or shape."""

    stage: Literal["widen"] = "widen"
    policy: Checkpoint | None = None
    """The checkpoint to widen, where it is a policy."""
    prm: Checkpoint | None = None
    """The checkpoint to widen, where it is a PRM."""
    to: Literal["7b", "14b", "38b"] | None = None
    """The model whose text model has the sizes to grow to: Qwen2.5-7B, Qwen2.5-14B, InternVL2.5-38B."""
    shape: ShapeKeys | None = None
    """Other sizes."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Number format of the weights. What is computed is the same in fp32 alone; bf16 rounds it."""

    @model_validator(mode="after")
    def _one_of_each(self) -> WidenConfig:
        if (self.policy is None) == (self.prm is None):
            raise ValueError("give either policy or prm")
        if (self.to is None) == (self.shape is None):
            raise ValueError("give either to or shape; `to: null` takes back what a recipe gives")
        return self
