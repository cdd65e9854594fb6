"""What the sections of a recipe have in common: sources of problems, and the keys of every stage that trains."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cos.training.mnist import Split
from cos.training.names import FolderName, OtherFile, ProblemFile
from cos.training.precision import Precision


class Keys(BaseModel):
    """Keys of a recipe; unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class LedgerSource(Keys):
    """Ledgers drawn as they are needed."""

    digits: Split
    """Which set of digits draws them; no two hold a digit in common."""
    problems: int | None = Field(default=None, ge=1)
    """How many; a training stage draws as many as its steps take, unless given."""
    seed: int | None = None
    """Where the drawing starts; the recipe's seed unless given."""


class ProblemSource(Keys):
    """Questions about pictures: ledgers, or JSONL files of problems. One of the two."""

    ledger: LedgerSource | None = None
    """Ledgers, as many as ``problems`` says."""
    data: tuple[ProblemFile, ...] = ()
    """JSONL files of problems or chains."""

    @model_validator(mode="after")
    def _one_source(self) -> ProblemSource:
        if (self.ledger is None) == (not self.data):
            raise ValueError("give either ledger or data")
        if self.ledger is not None and self.ledger.problems is None:
            raise ValueError("ledger.problems: say how many")
        return self


class JudgeKeys(Keys):
    """A judging model behind an OpenAI-compatible chat endpoint that reads images and keeps to a JSON schema."""

    model: str = Field(min_length=1)
    """Its name there."""
    url: str = Field(pattern=r"^https?://")
    """Base URL, which mostly ends in ``/v1``."""
    key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the API key; a server without keys needs none. The key itself never stands in
    a recipe."""
    concurrency: int = Field(default=16, ge=1)
    """Chains judged at once."""
    temperature: float | None = Field(default=None, ge=0)
    """Sampling temperature; the server's own unless given (some reasoning models take no other)."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest reply, tokens, thoughts included; the server's own limit unless given."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Longest wait for a reply, seconds."""
    retries: int = Field(default=3, ge=0)
    """How often a request that fails is made again, and how often a chain whose reply cannot be used is asked again."""

    @model_validator(mode="after")
    def _names_a_variable(self) -> JudgeKeys:
        # Checked here and not by a pattern, whose complaint would show what may well be a key.
        if not (self.key_env.isascii() and self.key_env.isidentifier()):
            raise ValueError("key_env: give the name of the environment variable that holds the key, not the key")
        return self


class StageKeys(Keys):
    """What every stage can be told."""

    name: FolderName | None = None
    """The stage's folder below the recipe's; the stage's kind unless given."""


class LoraKeys(Keys):
    """Low-rank adapters on the text layers, merged into the weights at the end."""

    rank: int = Field(default=16, ge=1)
    """Width of an adapter."""
    alpha: int = Field(default=32, ge=1)
    """An adapter's output is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before an adapter."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the layers that get one."""


class TrainingKeys(Keys):
    """What every stage that trains can be told."""

    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps. Give steps or epochs."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the data."""
    batch: int = Field(default=8, ge=1)
    """Samples a process takes through the model at once."""
    accumulate: int = Field(default=1, ge=1)
    """Batches to an optimiser step. Effective batch = processes x batch x accumulate."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate, after the warm-up."""
    warmup_share: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps over which the rate rises."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Decay of weight matrices."""
    min_rate_share: float = Field(default=0.0, ge=0, le=1)
    """The rate at the end, as a share of the peak."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for everything, or Muon for the matrices within layers and AdamW for the rest."""
    precision: Precision = "auto"
    """Number format of the forward and backward pass; weights and optimiser stay in float32. ``auto`` is bf16, but fp32
    on a CPU that would have to emulate it."""
    train_vision: bool = False
    """Whether the vision tower is trained."""
    train_projector: bool = True
    """Whether the projector between tower and text model is trained."""
    train_text: bool = True
    """Whether the text model is trained."""
    lora: LoraKeys | None = None
    """Train adapters instead of the weights."""
    max_tokens: int | None = Field(default=8192, ge=1)
    """Longest sample, prompt and image included; a longer one is an error."""
    length_buckets: tuple[int, ...] | None = None
    """Lengths to pad to, ascending; to the longest of the batch unless given. Few lengths compile few times."""
    compile: bool = False
    """Compile the text layers (pays on long runs with few lengths)."""
    save_every: int = Field(default=500, ge=1)
    """Steps from checkpoint to checkpoint."""
    log_every: int = Field(default=10, ge=1)
    """Steps from one line of metrics.jsonl to the next."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, some 30 % more time."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainingKeys:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        if self.length_buckets is not None and list(self.length_buckets) != sorted(set(self.length_buckets)):
            raise ValueError("length_buckets: give ascending lengths")
        if self.lora is None and not (self.train_vision or self.train_projector or self.train_text):
            raise ValueError("nothing is trained: set train_vision, train_projector or train_text")
        return self


class JudgingKeys(Keys):
    """Layers of its own for a small model to judge with, above those that read (`cos.training.judge_layers`)."""

    judging_layers: bool = False
    """Give a small model layers of its own for judging."""
    judging_heads: OtherFile | None = None
    """Train an earlier `prm` stage's judging layers further: the heads.safetensors in its folder."""
    tag_weight: float = Field(default=0.5, ge=0)
    """With judging layers: weight of the label loss beside theirs."""
    stream_noise: float = Field(default=0.0, ge=0)
    """With judging layers: relative noise on the residual stream, so that scores bear an engine's rounding."""


def check_steps(ledger: LedgerSource | None, keys: TrainingKeys) -> None:
    """Errors: ValueError for ledgers without end and no number of steps."""
    if ledger is not None and keys.steps is None:
        raise ValueError("ledgers have no end, so that epochs mean nothing: give steps")


class PreferenceKeys(Keys):
    """What a stage that learns from pairs can be told besides."""

    beta: float = Field(default=0.1, gt=0)
    """How closely the policy is held to the reference."""
    compared: Literal["chain", "step"] = "chain"
    """What is compared: whole chains, or both up to the end of the first step in which they differ, so that what
    rightly follows from a slip is not taught to be wrong (as in Step-DPO, arXiv 2406.18629)."""
    nll_weight: float = Field(default=1.0, ge=0)
    """Weight of the next-token loss of the chosen chain."""
