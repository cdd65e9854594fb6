"""Stage `pairs`: preference pairs among the chains of a question, by what a PRM makes of them (paper, section 3.4).

Written: ``pairs.jsonl``, and ``scored.jsonl``, the chains with the PRM's scores. While they are read, finished problems
stand in ``scores.journal``: a stopped run goes on.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cos.checkpoints import resolve
from cos.search.errors import InputError
from cos.search.tasks import together
from cos.training.engines import running_alone
from cos.training.folder import StageContext, StageRun
from cos.training.journal import Journal, work_off
from cos.training.parity import chain_scores
from cos.training.problems import chains_of
from cos.training.recipe import PairsConfig
from cos.training.rollout import bar_of, tell
from cos.training.rows import ChainRow, PairRow, Written, write_rows

JOURNAL = "scores.journal"
QUESTIONS_AT_ONCE = 8


def run_pairs(config: PairsConfig, context: StageContext) -> None:
    """Scores what has no scores yet, pairs, and writes. Errors: InputError, EngineDead."""
    with StageRun(context, "pairs") as stage:
        chains = chains_of(config.chains, context)
        if config.reward != "outcome":
            chains = asyncio.run(scored(chains, config, context))
            write_rows(context.folder / "scored.jsonl", chains)
        pairs = pairs_of(chains, config)
        if not pairs:
            raise InputError(
                f"no pair among {len(chains)} chains differs by more than gap {config.gap}; lower it", "gap"
            )
        write_rows(context.folder / "pairs.jsonl", pairs)
        (context.folder / JOURNAL).unlink(missing_ok=True)
        outcome = summary(pairs, chains)
        stage.finish(outcome=outcome)
    tell("pairs", outcome)


async def scored(chains: Sequence[ChainRow], config: PairsConfig, context: StageContext) -> list[ChainRow]:
    """The chains, each with a PRM score of every tag. Errors: InputError when some have none and there is no PRM."""
    groups: dict[str, list[ChainRow]] = {}
    for chain in chains:
        if chain.scores is None:
            groups.setdefault(chain.problem.id, []).append(chain)
    if not groups:
        return list(chains)
    if config.prm is None:
        raise InputError("the chains have no scores: give prm, the checkpoint that scores them", "prm")
    inside = context.resolve(config.prm)
    prm = str(inside) if inside.exists() else resolve("prm", config.prm)
    with Journal(context.folder / JOURNAL, {"prm": prm}) as journal:
        waiting = [group for name, group in groups.items() if name not in journal.done]
        async with running_alone("prm", prm, threads=context.threads) as reader:
            with bar_of("scores", len(groups), len(groups) - len(waiting)) as bar:

                async def read(group: list[ChainRow]) -> None:
                    found = await together(chain_scores(reader, chain) for chain in group)
                    names = [chain.id for chain in group]
                    journal.add(group[0].problem.id, dict(zip(names, found, strict=True)))
                    bar.update()

                await work_off(waiting, read, QUESTIONS_AT_ONCE)
        known = {name: scores for value in journal.done.values() for name, scores in value.items()}
    return [replace(chain, scores=tuple(known[chain.id])) if chain.id in known else chain for chain in chains]


def worth(chain: ChainRow, config: PairsConfig) -> float | None:
    """What a chain is worth as `PairsConfig.reward` says; None when a score that counts is missing."""
    if config.reward == "outcome":
        return None if chain.right is None else float(chain.right)
    if chain.scores is None:
        return None
    *steps, answer = chain.scores
    if config.reward == "answer" or not steps:
        return answer
    known = [score for score in steps if score is not None]
    if answer is None or len(known) < len(steps):
        return None
    return config.step_weight * math.fsum(known) / len(known) + (1 - config.step_weight) * answer


def pairs_of(chains: Sequence[ChainRow], config: PairsConfig) -> list[PairRow]:
    """At most ``per_question`` pairs a question: best with worst first, then the next of both, while they lie further
    apart than the gap. Chains that say the same are one chain."""
    groups: dict[str, dict[tuple[Any, ...], tuple[float, ChainRow]]] = {}
    for chain in chains:
        value = worth(chain, config)
        if value is not None:
            groups.setdefault(chain.problem.id, {}).setdefault((chain.steps, chain.answer), (value, chain))
    pairs: list[PairRow] = []
    for group in groups.values():
        ranked = sorted(group.values(), key=lambda pair: (-pair[0], pair[1].id))
        for number in range(min(config.per_question, len(ranked) // 2)):
            (high, better), (low, worse) = ranked[number], ranked[-1 - number]
            if high - low > config.gap:
                pairs.append(_pair(better, worse, high, low))
    return pairs


def _pair(better: ChainRow, worse: ChainRow, high: float, low: float) -> PairRow:
    chosen, rejected = (Written(id=chain.id, steps=chain.steps, answer=chain.answer) for chain in (better, worse))
    return PairRow(problem=better.problem, chosen=chosen, rejected=rejected, chosen_score=high, rejected_score=low)


def summary(pairs: Sequence[PairRow], chains: Sequence[ChainRow]) -> dict[str, Any]:
    """How many, how far apart, and how often the chosen one is right."""
    right = {chain.id: chain.right for chain in chains}

    def mean(values: Sequence[float]) -> float:
        return round(math.fsum(values) / len(values), 4)

    return {
        "questions": len({chain.problem.id for chain in chains}),
        "chains": len(chains),
        "pairs": len(pairs),
        "mean_gap": mean([pair.chosen_score - pair.rejected_score for pair in pairs]),
        "chosen_right": mean([float(right[pair.chosen.id] or False) for pair in pairs]),
        "rejected_right": mean([float(right[pair.rejected.id] or False) for pair in pairs]),
        "chosen_steps": mean([len(pair.chosen.steps) for pair in pairs]),
        "rejected_steps": mean([len(pair.rejected.steps) for pair in pairs]),
    }
