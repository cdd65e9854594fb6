"""What the sections of a recipe have in common: sources of problems, and the keys of every stage that trains."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cos.training.config.names import FolderName, OtherFile, ProblemFile, Split
from cos.training.config.section import Keys
from cos.training.data.sources import ChainSource, RowKeys
from cos.training.learning.precision import Precision

MOST_RATE = 1e3
"""Largest learning rate that is taken: above it lie slips alone, and float32 ends at some 3e38."""
MOST_SEED = 2**31 - 1
"""Largest seed: libraries take no more than 32 bits, and rounds add to it."""


class LedgerSource(Keys):
    """Ledgers drawn as they are needed."""

    digits: Split
    """Which set of digits draws them; no two hold a digit in common."""
    problems: int | None = Field(default=None, ge=1)
    """How many; a training stage draws as many as its steps take, unless given."""
    seed: int | None = Field(default=None, ge=0, le=MOST_SEED)
    """Where the drawing starts; the recipe's seed unless given."""


class ProblemSource(RowKeys):
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
    """Longest wait for a whole reply to one request, seconds."""
    retries: int = Field(default=3, ge=0)
    """How often a request that fails is made again, and how often a chain whose reply cannot be used is asked again."""

    @model_validator(mode="after")
    def _names_a_variable(self) -> JudgeKeys:
        # Checked here and not by a pattern, whose complaint would show what may well be a key.
        if not (self.key_env.isascii() and self.key_env.isidentifier()):
            raise ValueError("key_env: give the name of the environment variable that holds the key, not the key")
        return self


class StageKeys(Keys):
    """The keys of every stage."""

    name: FolderName | None = None
    """The stage's folder below the recipe's; the stage's kind unless given."""


class FailureKeys(Keys):
    """The keys for requests that fail, of a stage that asks a model."""

    failed_at_most: float = Field(default=0.1, ge=0, le=1)
    """Largest share of the chains that may fail. Above it the stage ends with an error that says why, keeps what
    succeeded, and the same command tries again what failed."""


Quantized = Literal["nf4", "int8"]


class LoraKeys(Keys):
    """Low-rank adapters on the text layers, merged into the weights at the end. Beside them ``train_vision`` and
    ``train_projector`` train those parts in full."""

    rank: int = Field(default=16, ge=1)
    """Width of an adapter."""
    alpha: int = Field(default=32, ge=1)
    """An adapter's output is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before an adapter."""
    targets: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), min_length=1
    )
    """Names of the layers that get one."""
    train_tokens: bool = True
    """Whether the rows of the step, answer and PRM tokens in embeddings and head are trained, too."""
    modules_to_save: tuple[str, ...] = ()
    """Names of modules that are trained in full, in addition to the adapters, such as ``lm_head``."""
    quantize: Quantized | None = None
    """Hold the text layers' weights in 4 bits (``nf4``) or 8 (``int8``) while adapters are trained, by bitsandbytes
    (QLoRA, arXiv 2305.14314). The adapters are merged into the weights as they were before."""
    keep_adapters: bool = False
    """Whether the adapters by themselves are kept as well, in the folder ``adapters`` next to ``model``."""


class RateKeys(Keys):
    """Peak learning rates of a model's parts; ``learning_rate`` where none is given."""

    vision: float | None = Field(default=None, gt=0, le=MOST_RATE)
    """Of the vision tower."""
    projector: float | None = Field(default=None, gt=0, le=MOST_RATE)
    """Of the projector between tower and text model."""
    text: float | None = Field(default=None, gt=0, le=MOST_RATE)
    """Of the text model, its adapters, and heads that are thrown away."""


class ValidationKeys(Keys):
    """Rows held out of training. The weights with the smallest loss on them are those that the stage writes."""

    data: tuple[ChainSource, ...] = Field(min_length=1)
    """JSONL files of rows like those that are trained on. A question may not be in both."""
    every: int = Field(default=100, ge=1)
    """Steps from one measurement to the next; the last step is measured, too."""
    patience: int | None = Field(default=None, ge=1)
    """Training ends when the loss was not smaller for that many measurements; never unless given."""


class TrainingKeys(Keys):
    """The keys of every stage that trains."""

    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps. Give steps or epochs."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the data."""
    batch: int = Field(default=8, ge=1)
    """Samples a process takes through the model at once."""
    accumulate: int = Field(default=1, ge=1)
    """Batches to an optimiser step. Effective batch = processes x batch x accumulate."""
    averaged: Literal["step", "micro_batch"] = "step"
    """What a loss is averaged over: all targets of an optimiser step, over all its batches and processes; or those of
    each batch and process, and then over these, as the paper's code does, where a target weighs the less the more there
    are beside it."""
    learning_rate: float = Field(default=1e-5, gt=0, le=MOST_RATE)
    """Peak learning rate, after the warm-up."""
    learning_rates: RateKeys | None = None
    """Other peak rates for parts of the model."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up."""
    warmup_share: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps over which the rate rises. The first step has a rate above 0, and one step has the peak."""
    min_rate_share: float = Field(default=0.0, ge=0, le=1)
    """What the rate falls towards, as a share of the peak."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Decay of all weight matrices, projector, convolutions and head included; of no gains, biases or embeddings."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's average of gradients: how much of it stays from step to step."""
    adam_beta2: float = Field(default=0.98, ge=0, lt=1)
    """The same of their squares. 0.98 remembers some 50 steps; PyTorch's own 0.999 would remember 1,000."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Longest gradient over all weights; a longer one is shortened to it. 0: none is."""
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
    group_by_length: bool = False
    """Put rows of like length into one batch, so that less is padded (transformers' LengthGroupedSampler). For rows of
    files."""
    length_buckets: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(default=None, min_length=1)
    """Lengths to pad to, ascending; to the longest of the batch unless given. Few lengths compile few times."""
    compile: bool = False
    """Compile the text layers (pays on long runs with few lengths)."""
    save_every: int = Field(default=500, ge=1)
    """Steps from checkpoint to checkpoint."""
    log_every: int = Field(default=10, ge=1)
    """Steps from one line of metrics.jsonl to the next."""
    validation: ValidationKeys | None = None
    """Held-out rows."""
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where else the values of metrics.jsonl go; the package has to be installed."""
    workers: int = Field(default=0, ge=0)
    """Processes that read pictures and make batches ahead of training; 0: training does so itself, between steps."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, some 30 % more time."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainingKeys:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        if self.length_buckets is not None and list(self.length_buckets) != sorted(set(self.length_buckets)):
            raise ValueError("length_buckets: give ascending lengths")
        if not (self.train_vision or self.train_projector or self.train_text):
            raise ValueError("nothing is trained: set train_vision, train_projector or train_text")
        if self.lora is not None and not self.train_text:
            raise ValueError("lora puts adapters on the text layers, and train_text says not to train them: drop one")
        if self.schedule == "constant" and self.min_rate_share:
            raise ValueError("min_rate_share: a constant rate does not fall; choose another schedule or leave it out")
        return self


class VerdictKeys(TrainingKeys):
    """Training, and which verdicts of labelled chains are taught."""

    until_error: bool = False
    """Teach no tag behind a chain's first bad one: what follows from a slip is neither good nor bad (as labels end
    there in PRM800K, arXiv 2305.20050)."""
    balanced: bool = False
    """Let good and bad tags count the same over all chains: the weight of bad ones follows from the labels."""


class JudgingKeys(VerdictKeys):
    """Training, and layers of its own for a small model to judge with, above those that read
    (`cos.training.learning.auxiliary_heads`)."""

    judging_layers: bool = False
    """Give a small model layers of its own for judging."""
    judging_heads: OtherFile | None = None
    """Train an earlier `prm` stage's judging layers further: the heads.safetensors in its folder."""
    tag_weight: float = Field(default=0.5, ge=0)
    """With judging layers: weight of the label loss, which is added to theirs."""
    stream_noise: float = Field(default=0.0, ge=0)
    """With judging layers: relative noise on the residual stream, so that scores bear an engine's rounding."""

    @model_validator(mode="after")
    def _judges_in_full(self) -> JudgingKeys:
        if self.judging_layers and self.lora is not None:
            raise ValueError("judging_layers are new: adapters alone cannot teach them; leave out lora")
        if self.judging_layers and (self.until_error or self.balanced):
            raise ValueError("until_error and balanced are for rows alone: leave them out with judging_layers")
        return self


def check_steps(ledger: LedgerSource | None, keys: TrainingKeys) -> None:
    """Errors: ValueError for ledgers without end and no number of steps."""
    if ledger is not None and keys.steps is None:
        raise ValueError("ledgers have no end, so that epochs mean nothing: give steps")


PreferenceKind = Literal["sigmoid", "sigmoid_norm", "ipo", "hinge", "robust", "apo_zero", "apo_down", "mpo"]


class PreferenceKeys(Keys):
    """Further keys of a stage that learns from pairs."""

    beta: float = Field(default=0.1, gt=0)
    """How closely the policy is held to the reference."""
    preference: PreferenceKind = "sigmoid"
    """By which loss two chains are compared, as TRL has them: ``sigmoid`` (DPO); ``sigmoid_norm`` (per token, so that
    length does not count); ``ipo`` (arXiv 2310.12036, per token); ``hinge`` (SLiC, arXiv 2305.10425); ``robust``
    (arXiv 2403.00409, for pairs of which some are the wrong way round); ``apo_zero`` and ``apo_down`` (arXiv
    2408.06266); ``mpo``: 0.8 x sigmoid and 0.2 x BCO, as InternVL is trained (arXiv 2411.10442)."""
    label_smoothing: float | None = Field(default=None, gt=0, lt=0.5)
    """For ``robust``: the share of pairs that are the wrong way round."""
    compared: Literal["chain", "step"] = "chain"
    """What is compared: whole chains, or both up to the end of the first step in which they differ, so that what
    rightly follows from a slip is not taught to be wrong (as in Step-DPO, arXiv 2406.18629)."""
    nll_weight: float = Field(default=1.0, ge=0)
    """Weight of the next-token loss of the chosen chain."""

    @model_validator(mode="after")
    def _robust_to_something(self) -> PreferenceKeys:
        if (self.preference == "robust") != (self.label_smoothing is not None):
            raise ValueError("preference: robust and label_smoothing go together: give both or neither")
        return self
