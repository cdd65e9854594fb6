"""A recipe: the stages of a training run in order. The keys of each kind of stage are a class here.

Paths of models and files are absolute, relative to the working directory, or relative to the recipe's runs folder
(``sft/model`` is what the stage ``sft`` wrote there).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import Field, model_validator

from cos.prm.choice import ITSELF
from cos.search.errors import InputError
from cos.training.config.conversion import ExportConfig, WidenConfig
from cos.training.config.keys import (
    MOST_SEED,
    FailureKeys,
    JudgeKeys,
    JudgingKeys,
    LedgerSource,
    PreferenceKeys,
    ProblemSource,
    StageKeys,
    TrainingKeys,
    check_steps,
)
from cos.training.config.names import Checkpoint, Folder, FolderName
from cos.training.config.section import Keys
from cos.training.data.sources import ChainSource, MixedChains, MixedPairs, MixKeys, RowKeys
from cos.training.runs.folder import Leaks, StageContext

LabelSource = Literal["exact", "monte_carlo", "judge"]
"""Who can label here: the ledger's exact checker, continuations by a policy, and a model that rates every step."""


class TokensConfig(StageKeys):
    """Adds the step, answer and PRM tokens to a checkpoint."""

    stage: Literal["tokens"] = "tokens"
    checkpoint: Checkpoint
    """The checkpoint to add them to: a folder or a hub name."""


class SightConfig(StageKeys, TrainingKeys):
    """Builds a small model for ledgers and teaches its eyes to name digits (cos-tiny only)."""

    stage: Literal["sight"] = "sight"
    role: Literal["policy", "prm"]
    """Whose size and digits."""
    towards: Checkpoint | None = None
    """A checkpoint whose view of each digit is to be learnt, so that both stand before the same text model."""
    averaged_over: int = Field(default=5120, ge=512)
    """Pictures that this view is the average of, in whole batches of 128."""


class SftConfig(StageKeys, TrainingKeys, RowKeys, MixKeys):
    """Fine-tunes a policy to write chains of steps."""

    stage: Literal["sft"] = "sft"
    model: Checkpoint
    """The checkpoint to start from."""
    text_from: Checkpoint | None = None
    """A checkpoint whose text layers are taken instead (same text model, other eyes)."""
    data: tuple[MixedChains, ...] = ()
    """JSONL files of chains, ours or ShareGPT-Step-300K's. Give data or ledger."""
    ledger: LedgerSource | None = None
    """Gold chains over ledgers without end."""
    trains: Literal["policy", "prm"] = "policy"
    """Whose questions and digits these are: a PRM may begin as a reader."""
    checked: int = Field(default=256, ge=1)
    """Gold chains over digits it has not seen that the outcome is measured on."""

    @model_validator(mode="after")
    def _one_source(self) -> SftConfig:
        if (self.ledger is None) == (not self.data):
            raise ValueError("give either data or ledger")
        check_steps(self.ledger, self)
        return self


class RolloutConfig(StageKeys, FailureKeys):
    """Samples a policy's chains through the engine."""

    stage: Literal["rollout"] = "rollout"
    policy: Checkpoint
    """The checkpoint that writes."""
    problems: ProblemSource
    """What it is asked."""
    each: int = Field(default=16, ge=1)
    """Chains a problem."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Share of probability that is sampled from."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest chain, tokens; what the engine has room for unless given."""
    logprobs: bool = True
    """Whether the policy's own log-probability of every chain is kept."""
    concurrency: int = Field(default=96, ge=1)
    """Chains drawn at once."""


class LabelConfig(StageKeys, FailureKeys, RowKeys):
    """Labels every step and answer of chains."""

    stage: Literal["label"] = "label"
    chains: tuple[ChainSource, ...] = Field(min_length=1)
    """JSONL files of chains."""
    sources: tuple[LabelSource, ...] = Field(default=("exact",), min_length=1)
    """Who labels."""
    policy: Checkpoint | None = None
    """The checkpoint that continues each step; needed for monte_carlo."""
    continuations: int = Field(default=16, ge=1)
    """Continuations of each step for monte_carlo."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature of continuations."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Share of probability that continuations are sampled from."""
    hard_above: float = Field(default=0.0, ge=0, lt=1)
    """A step's hard label is good when more than this share of its continuations end right."""
    judge: JudgeKeys | None = None
    """The model that rates each step; needed for judge."""
    consensus: bool = False
    """Keep the chains only on whose every tag all sources agree."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> LabelConfig:
        if "monte_carlo" in self.sources and self.policy is None:
            raise ValueError("monte_carlo labels need a policy")
        if ("judge" in self.sources) != (self.judge is not None):
            raise ValueError("labels by a judge need both: judge among the sources, and the section judge")
        if self.consensus and len(self.sources) < 2:
            raise ValueError("consensus needs two sources or more")
        return self


class PrmConfig(StageKeys, JudgingKeys, RowKeys, MixKeys):
    """Trains a process reward model on labelled chains."""

    stage: Literal["prm"] = "prm"
    model: Checkpoint
    """The checkpoint to start from."""
    chains: tuple[MixedChains, ...] = ()
    """JSONL files of labelled chains. Give chains or ledger, or both."""
    ledger: LedgerSource | None = None
    """Chains of clumsy writers over ledgers without end, taken by turns with ``chains``, which then are ledgers,
    too; the exact checker labels all of them."""
    row_batches: int = Field(default=1, ge=1)
    """With chains and a ledger: batches of the chains to one of clumsy writers."""
    labels: Literal["exact", "monte_carlo", "judge", "serving", "published"] = "exact"
    """Whose labels are taught."""
    target: Literal["soft", "hard"] = "hard"
    """Teach P(good) or good-or-bad."""
    answer_weight: float = Field(default=1.0, ge=0)
    """Weight of the answer's tag in the label loss; those of steps weigh 1."""
    bad_weight: float = Field(default=1.0, gt=0)
    """Weight of bad tags in the label loss; good ones weigh 1. Above 1 makes for lower scores."""
    lm_weight: float = Field(default=0.0, ge=0)
    """Weight of a next-token loss that is added to the label loss, so that the model goes on reading."""

    @model_validator(mode="after")
    def _has_data(self) -> PrmConfig:
        if self.ledger is None and not self.chains:
            raise ValueError("give chains or ledger")
        if self.judging_layers and self.ledger is None:
            raise ValueError("judging_layers learn from verdicts at every token, which only a ledger has: give ledger")
        if not self.judging_layers and (self.judging_heads is not None or self.stream_noise):
            raise ValueError("judging_heads and stream_noise are for judging layers: set judging_layers")
        if self.ledger is not None and (self.labels, self.target) != ("exact", "hard"):
            raise ValueError("with a ledger every chain is labelled by the exact checker: leave out labels and target")
        check_steps(self.ledger, self)
        return self


class PairsConfig(StageKeys, FailureKeys):
    """Pairs better chains with worse ones."""

    stage: Literal["pairs"] = "pairs"
    chains: tuple[ChainSource, ...] = ()
    """JSONL files of chains. Give chains or traces, or both."""
    traces: tuple[Folder, ...] = ()
    """Folders of served searches, stored by cos-serve --trace-dir."""
    prm: Checkpoint | None = None
    """The checkpoint that scores them; chains that carry scores need none."""
    reward: Literal["steps_and_answer", "answer", "outcome"] = "steps_and_answer"
    """A chain's reward: step_weight x mean step score + the rest x answer score, the answer score alone, or
    whether the answer is right."""
    step_weight: float = Field(default=0.2, ge=0, le=1)
    """Share of the steps in a chain's reward."""
    gap: float = Field(default=0.2, ge=0)
    """Smallest difference in reward."""
    least: float = Field(default=0.0, ge=0)
    """Smallest reward of the better chain: among chains that are all poor, the best one teaches what is wrong."""
    per_question: int = Field(default=1, ge=1)
    """Most pairs a question."""
    concurrency: int = Field(default=96, ge=1)
    """Steps and answers that are scored at once."""

    @model_validator(mode="after")
    def _has_chains(self) -> PairsConfig:
        if not (self.chains or self.traces):
            raise ValueError("give chains or traces")
        return self


class DpoConfig(StageKeys, TrainingKeys, PreferenceKeys, MixKeys):
    """Teaches a policy to prefer the better chain of pairs."""

    stage: Literal["dpo"] = "dpo"
    policy: Checkpoint
    """The checkpoint to train."""
    reference: Checkpoint | None = None
    """The checkpoint that stays; the policy itself unless given. Over several rounds: the SFT model."""
    pairs: tuple[MixedPairs, ...] = Field(min_length=1)
    """JSONL files of pairs."""


class RoundsConfig(StageKeys):
    """Iterative DPO: chains of the newest policy, pairs of them, DPO, and again."""

    stage: Literal["rounds"] = "rounds"
    policy: Checkpoint
    """The SFT model: the first round's policy, and the reference of every round."""
    prm: Checkpoint | None = None
    """The checkpoint that scores the chains; none is needed where the outcome is the reward."""
    rounds: int = Field(default=3, ge=1)
    """How many."""
    weights: Literal["continue", "restart"] = "continue"
    """What a round trains: the last round's policy, or the SFT model again. The paper does not say; its script
    restarts."""
    rollout: RolloutConfig
    """How chains are drawn, without ``policy``. Every round has questions of its own: ledgers are drawn anew, and files
    of problems are dealt out among the rounds."""
    pairs: PairsConfig
    """How they are paired, without ``chains`` and ``prm``."""
    dpo: DpoConfig
    """How a round trains, without ``policy``, ``reference`` and ``pairs``."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        """The keys that follow from the round."""
        if not isinstance(given, dict):
            return given
        policy, prm = given.get("policy"), given.get("prm")
        follow: dict[str, dict[str, Any]] = {
            "rollout": {"policy": policy},
            "pairs": {"chains": ("chains.jsonl",), "prm": prm},
            "dpo": {"policy": policy, "reference": policy, "pairs": ("pairs.jsonl",)},
        }
        filled = cast("dict[str, Any]", dict(given))
        for section, keys in follow.items():
            own = filled.get(section, {})
            if not isinstance(own, dict):
                continue
            if twice := sorted(keys.keys() & own.keys()):
                raise ValueError(f"{section}: leave out {', '.join(twice)}: every round sets it")
            filled[section] = {**own, **keys}
        return filled


class EvaluateConfig(StageKeys, RowKeys):
    """Measures a policy, a PRM, or both on problems they were not trained on."""

    stage: Literal["evaluate"] = "evaluate"
    policy: Checkpoint | None = None
    """The checkpoint that answers the problems."""
    prm: Checkpoint | None = None
    """The checkpoint that judges the chains and guides the search, or "judge": the policy itself."""
    chains: tuple[ChainSource, ...] = ()
    """JSONL files of labelled chains that the PRM is measured on."""
    seen_chains: tuple[ChainSource, ...] = ()
    """The same for questions that the PRM was trained on, reported apart."""
    labels: Literal["exact", "monte_carlo", "judge", "serving", "published"] = "exact"
    """Whose labels are taken for the truth."""
    stored_scores: bool = False
    """Take the scores that the chains carry instead of reading every tag anew."""
    calibration_share: float = Field(default=0.5, ge=0, lt=1)
    """Share of the problems that corrections of the scores are fitted on; the rest tries them. 0: no corrections."""
    problems: ProblemSource | None = None
    """What the policy is asked."""
    n: int = Field(default=8, ge=1)
    """Chains of a search."""
    temperature: float = Field(default=1.0, ge=0, le=2)
    """Sampling temperature of searches."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Share of probability that searches sample from."""
    dtype: str = "auto"
    """Number format of the engines: auto, bfloat16, float32."""
    concurrency: int = Field(default=16, ge=1)
    """Problems, or chains to be scored, at once."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> EvaluateConfig:
        if self.policy is None and self.prm in (None, ITSELF):
            raise ValueError("give policy or prm" if self.prm is None else f"prm: {ITSELF} asks the policy: give one")
        if self.policy is not None and self.problems is None:
            raise ValueError("a policy is measured on problems: give some")
        if self.policy is None and not self.chains:
            raise ValueError("a PRM is measured on labelled chains: give some")
        if self.seen_chains and not self.chains:
            raise ValueError("seen_chains are reported next to chains: give those too")
        return self


StageConfig = Annotated[
    TokensConfig
    | SightConfig
    | SftConfig
    | RolloutConfig
    | LabelConfig
    | PrmConfig
    | PairsConfig
    | DpoConfig
    | RoundsConfig
    | EvaluateConfig
    | ExportConfig
    | WidenConfig,
    Field(discriminator="stage"),
]


def stage_kinds() -> dict[str, type[StageKeys]]:
    """The keys of every kind of stage, by its name in a recipe."""
    return {kind.model_fields["stage"].default: kind for kind in get_args(get_args(StageConfig)[0])}


class Recipe(Keys):
    """A training run."""

    name: FolderName
    """Names the run."""
    seed: int = Field(default=0, ge=0, le=MOST_SEED)
    """Everything random follows from it."""
    runs: str | None = None
    """The folder of the run; ``runs/<name>`` unless given."""
    mnist: str = "runs/mnist"
    """Folder of the handwritten digits, for ledgers."""
    threads: int = Field(default=1, ge=1, le=1024)
    """Compute threads on CPU."""
    leaks: Leaks = "error"
    """What becomes of digits and questions that two of policy training, PRM training and evaluation use."""
    stages: tuple[StageConfig, ...]
    """What is run, in order."""

    @model_validator(mode="after")
    def _own_folders(self) -> Recipe:
        if not self.stages:
            raise ValueError("stages: give one at least")
        twice = [name for name, count in Counter(map(folder_name, self.stages)).items() if count > 1]
        if twice:
            raise ValueError(f"stages: {', '.join(twice)}: give stages of one kind different names")
        return self

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.runs or f"runs/{self.name}")

    def find(self, stage: str) -> StageConfig:
        """The stage of that name, or the only one of that kind. Errors: InputError."""
        named = [one for one in self.stages if folder_name(one) == stage]
        found = named or [one for one in self.stages if one.stage == stage]
        names = ", ".join(map(folder_name, found or self.stages))
        if not found:
            raise InputError(f"recipe {self.name!r} has no stage {stage!r}; it has {names}", "stage")
        if len(found) > 1:
            raise InputError(f"recipe {self.name!r} has several stages {stage!r}: say which of {names}", "stage")
        return found[0]

    def context(self, stage: StageConfig, *, skip_bad: bool = False) -> StageContext:
        """Where and how a stage of this recipe runs."""
        return StageContext(
            folder=self.folder / folder_name(stage),
            runs=self.folder,
            seed=self.seed,
            threads=self.threads,
            skip_bad=skip_bad,
            mnist=Path(self.mnist),
            leaks=self.leaks,
        )


def folder_name(stage: StageConfig) -> str:
    """The name of a stage and of its folder."""
    return stage.name or stage.stage
