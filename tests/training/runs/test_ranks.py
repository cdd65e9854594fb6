"""A run in two processes: every stage that trains ends with one whole model and the losses of one process, whoever of
the two is killed, told to stop or meets an error on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.utils import DeepSpeedPlugin, DistributedType

from cos.search.errors import InputError
from cos.search.grammars.cos import Step
from cos.training.cli import run_all
from cos.training.config.keys import TrainingKeys
from cos.training.data.rows import ChainRow, PairedChain, PairRow, TagLabel, write_rows
from cos.training.learning.sharded import check_loaded_everywhere, check_sharding
from cos.training.learning.trainer import check_count, checkpoints
from cos.training.runs.ranks import Ranks
from cos.training.runs.stopping import StopOnSignal
from tests.training.learning.test_accelerate import launched
from tests.training.rank_of_a_test import train_heads
from tests.training.stages.test_smoke import metrics
from tests.training.tiny_models import build
from tests.training.training_support import problems, saved_logits, weights

ARCHITECTURES = os.environ.get("COS_RANKS_ARCHITECTURES", "internvl").split(",")
"""One in CI, as every start of two processes takes seconds. All three:
``COS_RANKS_ARCHITECTURES=internvl,llava_next,qwen2_5_vl pytest tests/training/runs/test_ranks.py``."""
ROOT = Path(__file__).parents[3]
RANK = ROOT / "tests" / "training" / "rank_of_a_test.py"
FORKING = "from tests.training.rank_of_a_test import forking_torchrun; forking_torchrun()"
"""torchrun whose ranks need not import everything in each try: as a program it starts them in the tests of shards."""
STAGES = ("sft", "prm", "dpo")
STEPS = 4
ROWS = 8
BREAKS = (
    {"stage": "sft", "rank": 1, "step": 3, "how": "SIGKILL"},
    {"stage": "prm", "rank": 0, "step": 3, "how": "SIGKILL"},
    {"stage": "dpo", "rank": 1, "step": 0, "how": "SIGTERM"},
)
"""How the run's first tries end. Checkpoints are written every other step."""


@dataclass(frozen=True)
class Two:
    """What a run in two processes left, and one in one process with twice the batch."""

    runs: Path
    alone: Path
    output: str


def write_data(folder: Path) -> tuple[Path, Path]:
    """Files of labelled chains and of pairs whose turns all have one length: the mean of means is the mean."""
    chains: list[ChainRow] = []
    pairs: list[PairRow] = []
    for index, problem in enumerate(problems(folder / "pictures", ROWS)):
        right, wrong = (written(f"{problem.id}/{place}", 10 + index + 40 * place) for place in (0, 1))
        good = index % 2 == 0
        if index % 3 == 1:
            # A batch of a process may have no picture, while the other's has.
            problem = replace(problem, image=None)
        row = ChainRow(
            id=right.id,
            problem=problem,
            steps=right.steps,
            answer=right.answer,
            right=good,
            labels={"exact": (TagLabel(float(good), good),) * 3},
        )
        chains.append(row)
        pairs.append(PairRow(problem=problem, chosen=right, rejected=wrong, chosen_score=0.9, rejected_score=0.1))
    write_rows(folder / "chains.jsonl", chains)
    write_rows(folder / "pairs.jsonl", pairs)
    return folder / "chains.jsonl", folder / "pairs.jsonl"


def written(name: str, number: int) -> PairedChain:
    reading = Step("Read row 1", f"Row 1 shows {number}.", "It has 2 digits.")
    adding = Step("Add", f"{number} + 15 = {number + 15}.", "Both rows are used.")
    return PairedChain(id=name, steps=(reading, adding), answer=str(number + 15))


def write_recipe(folder: Path, name: str, checkpoint: Path, data: tuple[Path, Path], batch: int, *without: str) -> Path:
    """A recipe of every stage that trains, but for some; its runs folder is ``folder/name``."""
    keys = {
        "steps": STEPS,
        "batch": batch,
        "learning_rate": 1e-3,
        "log_every": 1,
        "save_every": 2,
        "precision": "fp32",
    }
    lora = {"rank": 2, "alpha": 4}
    chains, pairs = map(str, data)
    stages: list[dict[str, Any]] = [
        {"stage": "tokens", "checkpoint": str(checkpoint)},
        {"stage": "sft", "model": "tokens/model", "data": [chains], **keys},
        {"stage": "prm", "model": "tokens/model", "chains": [chains], "lora": lora, **keys},
        {"stage": "dpo", "policy": "sft/model", "pairs": [pairs], "lora": {**lora, "train_tokens": False}, **keys},
    ]
    stages = [stage for stage in stages if stage["stage"] not in without]
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, "runs": str(folder / name), "leaks": "report", "stages": stages}))
    return path


def torchrun(
    recipe: Path,
    plan: Mapping[str, Any],
    tries: int,
    variables: Mapping[str, str] | None = None,
    *,
    launcher: Sequence[str] = ("-m", "torch.distributed.run"),
) -> str:
    """What the recipe says in two processes on CPU, begun anew as often as ``tries`` says."""
    file, logs = recipe.with_suffix(".plan.json"), recipe.with_suffix(".logs")
    file.write_text(json.dumps(plan))
    options = ["--nproc-per-node", "2", "--monitor-interval", "1", "--standalone", "--max-restarts", str(tries - 1)]
    options += ["--redirects", "3", "--log-dir", str(logs)]
    ended = subprocess.run(
        [sys.executable, *launcher, *options, str(RANK), str(recipe), str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # else a new try finds the addresses of the last one's ranks
            **(variables or {}),
        },
    )
    said = "".join(each.read_text() for each in sorted(logs.rglob("*.log")))
    assert ended.returncode == 0, ended.stdout + said
    return said


@pytest.fixture(scope="module", params=ARCHITECTURES)
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Two:
    """All stages in two processes that are broken off four times, and in one."""
    folder = tmp_path_factory.mktemp("ranks")
    checkpoint = build(folder / "checkpoint", request.param, cos_tokens=False)
    data = write_data(folder)
    ready = build(folder / "ready", request.param)
    heads = {"model": str(ready), "chains": str(data[0]), "runs": str(folder), "steps": STEPS, "batch": 1}
    plan = {"breaks": BREAKS, "heads": heads, "shards": None}
    recipe = write_recipe(folder, "two", checkpoint, data, 1)
    output = torchrun(recipe, plan, len(BREAKS) + 1, launcher=("-c", FORKING))
    run_all(str(write_recipe(folder, "alone", checkpoint, data, 2)))
    return Two(folder / "two", folder / "alone", output)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_in_two_processes_has_the_losses_of_one_with_twice_the_batch(stage: str, two: Two) -> None:
    ours, theirs = (losses(runs / stage) for runs in (two.runs, two.alone))
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert list(ours) == [1, 2, 3, 4]


def losses(folder: Path) -> dict[int, float]:
    """By step, the last one of a step that was done again."""
    return {entry["step"]: entry["loss"] for entry in metrics(folder) if "loss" in entry}


@pytest.mark.parametrize("stage", ["tokens", *STAGES])
def test_a_run_in_two_processes_ends_with_one_whole_model(stage: str, two: Two) -> None:
    ours, theirs = (weights(runs / stage / "model") for runs in (two.runs, two.alone))
    assert ours.keys() == theirs.keys()
    furthest = max(float((value - theirs[name]).abs().max()) for name, value in ours.items())
    assert furthest < 1e-3
    assert torch.isfinite(saved_logits(two.runs / stage / "model")).all()
    done = json.loads((two.runs / stage / "done.json").read_text())
    assert done["ranks"] == (1 if stage == "tokens" else 2)
    assert not (two.runs / stage / "lock").read_text()


def test_a_killed_process_ends_the_other_with_a_sentence(two: Two) -> None:
    for stage, left in (("sft", 0), ("prm", 1)):
        told = f"stage '{stage}': another of the 2 processes of this run has ended before this one (number {left})"
        assert f"error: {told}" in two.output
    assert "Traceback" not in two.output


def test_an_error_of_the_first_rank_is_everybodys_and_all_learn_what_each_knows(two: Two) -> None:
    told = [json.loads((two.runs.parent / f"meeting-{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1] == ["there is no chain in it", "chains", 0, True, [0, 1]]


def test_a_signal_to_one_rank_saves_a_checkpoint_and_ends_all(two: Two) -> None:
    told = "stage 'dpo' was told to stop: a checkpoint of step 1 of 4 is saved, and the same command goes on from there"
    assert two.output.count(f"error: {told}") >= 1


def test_heads_beside_a_model_learn_alike_on_all_ranks(two: Two) -> None:
    first, second = (torch.load(two.runs.parent / f"heads-{rank}.pt") for rank in (0, 1))
    heads = train_heads(
        str(two.runs.parent / "ready"),
        str(two.runs.parent / "chains.jsonl"),
        str(two.runs.parent / "single"),
        steps=STEPS,
        batch=2,
    )
    for name, value in heads.state_dict().items():
        assert torch.equal(first[name], second[name])
        assert torch.allclose(first[name], value, atol=1e-5)
    assert all(parameter.grad is None for parameter in heads.parameters()), "a step's gradients are forgotten after it"


def test_a_checkpoint_of_another_number_of_processes_is_refused(two: Two) -> None:
    (newest,) = checkpoints(two.runs / "sft")
    check_count(newest, 2)
    with pytest.raises(
        InputError, match=r"was written by a run in 2 processes, and this one has 1: start 2, or remove"
    ):
        check_count(newest, 1)


def sharded(two: Two, configuration: str, *without: str) -> Path:
    """A recipe in two processes that shard by a shipped configuration; gives the run's folder."""
    folder = two.runs.parent
    data = folder / "chains.jsonl", folder / "pairs.jsonl"
    recipe = write_recipe(folder, configuration, folder / "checkpoint", data, 1, *without)
    shards = "fsdp" if configuration == "fsdp" else "deepspeed"
    variables = {**launched(configuration), "ACCELERATE_MIXED_PRECISION": "no", "DS_ACCELERATOR": "cpu"}
    torchrun(recipe, {"breaks": [], "heads": None, "shards": shards}, 1, variables)
    return folder / configuration


def same(ours: Path, theirs: Path) -> None:
    """A stage's losses and weights are those of another run."""
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-4)
    one, other = weights(ours / "model"), weights(theirs / "model")
    assert one.keys() == other.keys()
    assert all(torch.allclose(value.float(), other[name], atol=1e-3) for name, value in one.items())


def test_a_run_sharded_by_the_shipped_configuration_ends_with_whole_models_and_the_same_losses(two: Two) -> None:
    runs = sharded(two, "fsdp", "prm")
    for stage in ("sft", "dpo"):
        assert [*(runs / stage).glob("checkpoint-4/pytorch_model_fsdp*")], "was sharded"
        same(runs / stage, two.alone / stage)


@pytest.mark.parametrize("configuration", ["deepspeed-zero1", "deepspeed-zero3"])
def test_a_run_by_deepspeed_ends_with_a_whole_model_and_the_same_losses(configuration: str, two: Two) -> None:
    """Where DeepSpeed is installed, which is no dependency."""
    if find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    runs = sharded(two, configuration, "prm", "dpo")
    assert [*(runs / "sft").glob("checkpoint-4/global_step4/*")], "was DeepSpeed's"
    same(runs / "sft", two.alone / "sft")


@dataclass
class Control:
    """What a callback can ask for."""

    should_save: bool = False
    should_training_stop: bool = False


@dataclass(frozen=True)
class State:
    """Where training stands."""

    global_step: int = 3
    max_steps: int = 10


def test_a_signal_asks_for_a_checkpoint_and_the_end_and_a_second_interrupt_is_one() -> None:
    stop, control = StopOnSignal(Ranks()), Control()
    # In the background of a shell a program begins with a handler that does nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop.listening():
        stop.on_step_end(None, State(), control)
        assert not control.should_save
        signal.raise_signal(signal.SIGINT)
        stop.on_step_end(None, State(), control)
        assert control.should_save
        assert control.should_training_stop
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_signal_in_the_last_step_changes_nothing() -> None:
    stop, control = StopOnSignal(Ranks()), Control()
    with stop.listening():
        signal.raise_signal(signal.SIGTERM)
        stop.on_step_end(None, State(global_step=10), control)
    assert not stop.has_stopped
    assert not control.should_save


def test_outside_the_main_thread_no_signals_are_taken() -> None:
    before = signal.getsignal(signal.SIGTERM)
    taken: list[bool] = []

    def run() -> None:
        with StopOnSignal(Ranks()).listening():
            taken.append(signal.getsignal(signal.SIGTERM) is not before)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert taken == [False]


@dataclass(frozen=True)
class Sharding:
    """What an accelerator says of how it shards, before a model is wrapped."""

    distributed_type: DistributedType
    deepspeed_plugin: DeepSpeedPlugin | None = None


def zero3(*, gathers: bool) -> Sharding:
    return Sharding(DistributedType.DEEPSPEED, DeepSpeedPlugin(zero_stage=3, zero3_save_16bit_model=gathers))


FSDP = Sharding(DistributedType.FSDP)
LORA = {"lora": {"train_tokens": False}}


@pytest.mark.parametrize(
    ("accelerator", "keys", "what"),
    [
        (FSDP, {"optimizer": "muon"}, "optimizer muon needs whole matrices, and FSDP shards them: set adamw"),
        (zero3(gathers=True), {"optimizer": "muon"}, "and DeepSpeed shards them"),
        (zero3(gathers=True), LORA, "adapters cannot be merged with DeepSpeed's ZeRO stage 3: use stage 1 or 2"),
        (zero3(gathers=False), {}, "ZeRO stage 3 would write no weights: set zero3_save_16bit_model: true"),
        (
            FSDP,
            {"lora": {"quantize": "nf4"}},
            "weights in few bits cannot be trained with FSDP: leave out lora.quantize",
        ),
        (FSDP, {"lora": {}}, "set lora.train_tokens to false"),
        (FSDP, {"validation": {"data": ["held-out.jsonl"], "every": 1}}, "validation keeps the best weights"),
    ],
)
def test_what_would_not_end_well_in_shards_is_refused(
    accelerator: Sharding, keys: Mapping[str, Any], what: str
) -> None:
    with pytest.raises(InputError, match=what):
        check_sharding(accelerator, TrainingKeys.model_validate({"steps": 1, **keys}), has_heads=False)


def test_heads_beside_a_sharded_model_are_refused_and_whole_models_are_not() -> None:
    keys = TrainingKeys.model_validate({"steps": 1})
    with pytest.raises(InputError, match="heads beside a model cannot be trained with FSDP: start it with torchrun"):
        check_sharding(FSDP, keys, has_heads=True)
    check_sharding(FSDP, keys, has_heads=False)
    check_sharding(zero3(gathers=True), keys, has_heads=False)
    check_sharding(Sharding(DistributedType.MULTI_CPU), keys, has_heads=True)


def test_a_reference_that_one_process_alone_has_loaded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    check_loaded_everywhere()
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "True")
    with pytest.raises(InputError, match="set fsdp_cpu_ram_efficient_loading: false"):
        check_loaded_everywhere()
