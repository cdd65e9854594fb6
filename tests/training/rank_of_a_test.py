"""One rank of a run under test: ``cos train run``, broken off in its first tries as the test plans.

Started by torchrun, which begins anew after a rank has ended badly: the same command again. `forking_torchrun` has it
import everything once, as each import of this takes a processor some 8 seconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch import Tensor, nn

from cos.clients.cli import main
from cos.search.errors import InputError
from cos.training.config.recipe import SftConfig
from cos.training.data.row_data import imitated
from cos.training.data.rows import ChainRow, read_rows
from cos.training.learning.encode import Collator, TurnEncoder, load_checkpoint
from cos.training.learning.losses import Batch, Counts, Numbers
from cos.training.learning.trainer import StageTrainer
from cos.training.runs.folder import StageContext
from cos.training.runs.ranks import Ranks


def break_off(stage: str, rank: int, step: int, how: str) -> None:
    """Has this process get a signal, if it is that rank, in that step (from 0) of the stage."""
    plain = StageTrainer.training_step

    def training_step(
        self: StageTrainer, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        here = (Path(str(self.args.output_dir)).name, int(os.environ["RANK"]), self.state.global_step)
        if here == (stage, rank, step):
            os.kill(os.getpid(), signal.Signals[how])
        return plain(self, model, inputs, num_items_in_batch)

    StageTrainer.training_step = training_step


@dataclass(frozen=True)
class TokensLoss:
    """How far what a head says of tokens' embeddings is from 1; not reached by the model's own forward pass."""

    heads: nn.Module

    def counts(self, batch: Batch) -> Counts:
        """Tokens."""
        return {"tokens": torch.tensor(batch["input_ids"].numel())}

    def __call__(self, model: Any, batch: Batch, counts: Counts | None = None) -> tuple[Tensor, Numbers]:
        """The squares, divided by the tokens."""
        off = self.heads(model.get_input_embeddings()(batch["input_ids"])).sub(1).square().sum()
        return off / (counts or self.counts(batch))["tokens"], {"off": off.item()}


def train_heads(model: str, chains: str, runs: str, **keys: Any) -> nn.Module:
    """Trains a head beside a model."""
    torch.manual_seed(0)
    trained, processor = load_checkpoint(model)
    heads = nn.Linear(64, 1)
    rows = list(read_rows(Path(chains), ChainRow))

    config = SftConfig.model_validate({"model": model, "data": [chains], "precision": "fp32", "log_every": 1, **keys})
    context = StageContext(folder=Path(runs) / "heads", runs=Path(runs))
    data, collate = imitated(rows, TurnEncoder(processor.tokenizer)), Collator(processor)
    StageTrainer(trained, TokensLoss(heads), data, collate, config, context, extra=heads).run()
    return heads


def meet() -> list[Any]:
    """What each rank learns of the others: an error of the first one, and what they know together."""
    ranks, told = Ranks.of_environment(), list[Any]()

    def fail() -> None:
        raise InputError("there is no chain in it", "chains")

    try:
        ranks.first(fail)
    except InputError as error:
        told += [str(error), error.param]
    ranks.wait()
    return [*told, ranks.first(lambda: ranks.number), ranks.any(ranks.number == 1), ranks.gathered(ranks.number)]


def as_if_on_accelerators(by: str) -> None:
    """Has accelerate take CPUs and gloo for what it shards models on, ``by`` FSDP or DeepSpeed: by itself it does so on
    accelerators alone."""

    def backend(*given: Any) -> tuple[str, DistributedType]:
        del given
        return "gloo", DistributedType.MULTI_GPU

    pytest.MonkeyPatch().setattr(PartialState, "_prepare_backend", backend)
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    if by == "fsdp":
        torch.distributed.init_process_group("gloo")
        return
    deepspeed = import_module("deepspeed")
    # Shared memory between processes is for speed, and takes a minute to compile.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.comm.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)


def forking_torchrun() -> None:
    """torchrun by ``sys.argv``, but that ranks are forks of this process. The script is run
    in them."""
    from torch.distributed.run import main as torchrun

    torchrun(["--start-method", "fork", "--run-path", *sys.argv[1:]])


def as_just_started() -> None:
    """Has signals do what they do in a program that was just started: a fork has torchrun's handlers."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    as_just_started()
    recipe, plan = sys.argv[1:]
    planned = json.loads(Path(plan).read_text())
    if planned["shards"]:
        as_if_on_accelerators(planned["shards"])
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if attempt == 0 and planned["heads"]:
        folder, rank = Path(planned["heads"]["runs"]), os.environ["RANK"]
        (folder / f"meeting-{rank}.json").write_text(json.dumps(meet()))
        heads = train_heads(**planned["heads"])
        torch.save(heads.state_dict(), folder / f"heads-{rank}.pt")
    if attempt < len(planned["breaks"]):
        break_off(**planned["breaks"][attempt])
    try:
        main(["train", "run", "--config", recipe])
    except SystemExit as ended:
        # torchrun takes a fork that has exited for one that has failed, whatever its status: this one has to return.
        if ended.code:
            raise
