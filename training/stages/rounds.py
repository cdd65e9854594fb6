"""Stage `rounds`: iterative DPO (paper, section 3.4). Each round draws chains of the newest policy on fresh questions,
pairs them by their reward and trains on the pairs; the reference stays the SFT model.

Folders: ``round-<r>/rollout``, ``round-<r>/pairs`` and ``round-<r>/dpo`` below the stage's own, each as if it were a
stage of its own: what is done is not done again, and what was broken off goes on where it stopped. The last round's
policy is the stage's ``model/``. Whether a round trains the last round's policy on or starts from the SFT model again
is ambiguous in the paper (the released script starts again); we train on, and ``weights: restart`` does the other.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cos.search.errors import InputError
from cos.training.config.keys import ProblemSource
from cos.training.config.recipe import DpoConfig, PairsConfig, RolloutConfig, RoundsConfig
from cos.training.data.preflight import Intake
from cos.training.data.problems import images_of
from cos.training.data.rows import ProblemRow, write_rows
from cos.training.data.sources import MixedPairs, files_of
from cos.training.data.splits import claim, digits_of
from cos.training.runs.folder import DONE, MODEL, StageContext, StageRun
from cos.training.runs.ranks import ALONE, give_back_memory

PARTS = ("rollout", "pairs", "dpo")
SEED_STRIDE = 1_000
"""Distance of the seeds of two rounds."""


@dataclass(frozen=True, slots=True)
class Stages:
    """What a round is made of."""

    rollout: Callable[[RolloutConfig, StageContext], None]
    pairs: Callable[[PairsConfig, StageContext], None]
    dpo: Callable[[DpoConfig, StageContext], None]


def run_rounds(config: RoundsConfig, context: StageContext, stages: Stages | None = None) -> None:
    """Runs what is not done yet and writes ``model/``. Errors: those of the three stages."""
    from cos.training.learning.encode import load_checkpoint

    stages = stages or own_stages()
    with StageRun(context, "rounds") as run:
        policy, outcome = config.policy, claimed(config, context)
        context.ranks.first(lambda: check_made(config, context))
        for number in range(1, config.rounds + 1):
            policy = run_round(config, context, number, policy, stages)
            if context.ranks.is_first:
                outcome[f"round-{number}"] = outcomes(context.folder / f"round-{number}")
        trained = load_checkpoint(policy) if context.ranks.is_first else (None, None)
        run.finish(*trained, outcome)


def check_made(config: RoundsConfig, context: StageContext) -> None:
    """Errors: InputError for a policy or PRM that an earlier stage has yet to write: known before hours of sampling."""
    for role, name in (("policy", config.policy), ("prm", config.prm)):
        found = Path(context.checkpoint(name)) if name is not None else None
        if found is not None and found.name == MODEL and not found.exists():
            raise InputError(f"{role} {name}: there is no {found}; run the stage that writes it first", role)


def claimed(config: RoundsConfig, context: StageContext) -> dict[str, Any]:
    """Compares the questions of all rounds with what other stages use, before the first of them is drawn for; every
    round's DPO does so again for its own. Returns and raises as `claim`."""
    source, intake = config.rollout.problems, Intake(context)
    asked = all_problems(source, intake, images_of(source, context)) if source.data else ()
    leaks = claim(context, "policy", asked, digits_of(source), (config.policy, config.prm))
    return {**intake.facts, **leaks}


def own_stages() -> Stages:
    """The stages as recipes run them."""
    from cos.training.stages.dpo import run_dpo
    from cos.training.stages.pairs import run_pairs
    from cos.training.stages.rollout import run_rollout

    return Stages(run_rollout, run_pairs, run_dpo)


def run_round(config: RoundsConfig, context: StageContext, number: int, policy: str, stages: Stages) -> str:
    """One round from ``policy``; returns where its own policy stands. Parts that are done are passed over.

    All ranks train; the first one alone draws and pairs, and the others wait for it.
    """
    folder = (context.folder / f"round-{number}").resolve()
    rollout, pairs, dpo = (
        replace(context, folder=folder / part, seed=context.seed + SEED_STRIDE * number) for part in PARTS
    )

    def draw_and_pair() -> None:
        if not rollout.is_done:
            asked = questions(config, context, number, folder)
            drawn = config.rollout.model_copy(update={"policy": policy, "problems": asked})
            stages.rollout(drawn, replace(rollout, ranks=ALONE))
        if not pairs.is_done:
            chains = files_of([str(rollout.folder / "chains.jsonl")])
            paired = config.pairs.model_copy(update={"chains": chains, "prm": config.prm})
            stages.pairs(paired, replace(pairs, ranks=ALONE))

    context.ranks.first(draw_and_pair)
    if not context.ranks.first(lambda: dpo.is_done):
        trained = config.policy if config.weights == "restart" else policy
        found = (MixedPairs(path=str(pairs.folder / "pairs.jsonl")),)
        update = {"policy": trained, "reference": config.policy, "pairs": found}
        stages.dpo(config.dpo.model_copy(update=update), dpo)
        give_back_memory()
    return str(dpo.folder / MODEL)


def questions(config: RoundsConfig, context: StageContext, number: int, folder: Path) -> ProblemSource:
    """A round's own questions: ledgers from a seed of its own, or its part of the files' problems, in a file."""
    source = config.rollout.problems
    if source.ledger is not None:
        seed = context.seed if source.ledger.seed is None else source.ledger.seed
        drawn = source.ledger.model_copy(update={"seed": seed + SEED_STRIDE * number})
        return source.model_copy(update={"ledger": drawn})
    rows = all_problems(source, Intake(context), images_of(source, context))
    path = folder / "problems.jsonl"
    write_rows(path, deal(rows, number, config.rounds, context.seed))
    return source.model_copy(update={"data": (str(path),), "images": None})


def all_problems(source: ProblemSource, intake: Intake, images: Path | None) -> list[ProblemRow]:
    """The problems of a source's files. Errors: InputError for bad lines that are not to be skipped. (A round's rollout
    looks at the pictures.)"""
    found = intake.problems_of(source.data, images)
    intake.settle("problems")
    return found


def deal(rows: Sequence[ProblemRow], number: int, rounds: int, seed: int) -> list[ProblemRow]:
    """Round ``number``'s share (from 1) of shuffled problems: every problem is in one round.

    Errors: InputError when there are fewer problems than rounds.
    """
    if len(rows) < rounds:
        raise InputError(f"{len(rows)} problems cannot be dealt out among {rounds} rounds; give more", "problems")
    order = list(rows)
    random.Random(f"rounds/{seed}").shuffle(order)
    return order[number - 1 :: rounds]


def outcomes(folder: Path) -> Mapping[str, Any]:
    """What the parts of a round had as their outcomes."""
    return {part: json.loads((folder / part / DONE).read_text(encoding="utf-8"))["outcome"] for part in PARTS}
