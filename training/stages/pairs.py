"""Stage `pairs`: preference pairs among the chains of a question, by their rewards from a PRM (paper, section 3.4).

Written: ``pairs.jsonl``, and ``scored.jsonl``, the chains with the PRM's scores (given as ``chains`` they need no PRM
again). While they are read, finished questions stand in ``scores.journal``: a stopped run goes on.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from cos.evaluation.failures import check_share, most_often, naming, of_stage
from cos.evaluation.progress import tell
from cos.search.errors import InputError
from cos.training.config.recipe import PairsConfig
from cos.training.data.preflight import Intake, chains_of, reads_pictures
from cos.training.data.questions import is_right
from cos.training.data.rows import ChainRow, PairedChain, PairRow, write_rows
from cos.training.data.trace_reader import harvest
from cos.training.labels.prm_scores import Prm, needs_scores, score_chains
from cos.training.runs.folder import StageContext, StageRun

JOURNAL = "scores.journal"


def run_pairs(config: PairsConfig, context: StageContext) -> None:
    """Scores what has no scores yet, pairs, and writes. Errors: InputError, EngineDead, StageError."""
    with StageRun(context, "pairs") as stage, naming(of_stage(context.folder.name)):
        intake = Intake(context)
        chains, harvested = all_chains(config, context, intake)
        if config.reward != "outcome":
            chains = asyncio.run(scored(chains, config, context))
            write_rows(context.folder / "scored.jsonl", chains)
        pairs = pairs_of(chains, config)
        if not pairs:
            without = sum(reward_of(chain, config) is None for chain in chains)
            note = f" ({without} of them have no reward {config.reward!r})" if without else ""
            raise InputError(
                f"no pair among {len(chains)} chains differs by more than gap {config.gap} with a chosen one of "
                f"reward {config.least} or more{note}; {widest(chains, config)}. Lower gap or least, draw more "
                "chains a question, or train a PRM that tells them apart",
                "gap",
            )
        write_rows(context.folder / "pairs.jsonl", pairs)
        (context.folder / JOURNAL).unlink(missing_ok=True)
        outcome = {
            **summary(pairs, chains),
            **intake.facts,
            **harvested,
            "unscored": sum(reward_of(chain, config) is None for chain in chains),
        }
        stage.finish(outcome=outcome)
    tell("pairs", outcome)


def all_chains(
    config: PairsConfig, context: StageContext, intake: Intake
) -> tuple[list[ChainRow], dict[str, dict[str, int]]]:
    """The chains of all files and traces, and for ``done.json`` what was found in traces, bad ones counted.

    Errors: InputError for one id in two of them.
    """
    counts: dict[str, dict[str, int]] = {}
    chains = chains_of(config.chains, intake, pictures=reads_pictures(config)) if config.chains else []
    if config.traces:
        folders = [context.resolve(folder) for folder in config.traces]
        found = harvest(folders, skip_bad=context.skip_bad)
        tell("traces", found.counts)
        counts["harvested"] = dict(found.counts)
        # What no PRM scored can only be used where one is at hand.
        chains += [row for row in found.chains if row.labels or config.prm is not None]
    seen: set[str] = set()
    for chain in chains:
        if chain.id in seen:
            raise InputError(f"chain {chain.id!r} is in two of the files; rename one, or give one of them", "chains")
        seen.add(chain.id)
    return chains, counts


async def scored(chains: Sequence[ChainRow], config: PairsConfig, context: StageContext) -> list[ChainRow]:
    """The chains, each with a PRM score of every tag.

    Errors: InputError when some have none and there is no PRM; StageError when more than ``failed_at_most`` of the
    chains could not be scored.
    """
    if config.prm is None:
        if any(chain.scores is None for chain in chains):
            raise InputError("the chains have no scores: give prm, the checkpoint that scores them", "prm")
        return list(chains)
    prm = Prm(model=context.checkpoint(config.prm), threads=context.threads)
    failed: list[str] = []
    found = await score_chains(chains, prm, config.concurrency, context.folder / JOURNAL, failed)
    whys = [most_often(failed)] * sum(map(needs_scores, found))
    check_share("chains could not be scored", whys, len(found), config.failed_at_most)
    return found


def reward_of(chain: ChainRow, config: PairsConfig) -> float | None:
    """A chain's reward by `PairsConfig.reward`; None when a score that counts is missing."""
    if config.reward == "outcome":
        right = rightness(chain)
        return None if right is None else float(right)
    if chain.scores is None:
        return None
    *steps, answer = chain.scores
    if config.reward == "answer" or not steps:
        return answer
    known = [score for score in steps if score is not None]
    if answer is None or len(known) < len(steps):
        return None
    return config.step_weight * math.fsum(known) / len(known) + (1 - config.step_weight) * answer


def rightness(chain: ChainRow) -> bool | None:
    """Whether the answer is gold; None where there is no gold (served questions have none)."""
    if chain.right is None and chain.problem.answer:
        return is_right(chain.answer, chain.problem)
    return chain.right


def pairs_of(chains: Sequence[ChainRow], config: PairsConfig) -> list[PairRow]:
    """At most ``per_question`` pairs a question: best with worst first, then the next of both, while they lie further
    apart than the gap and the better one's reward is enough. Chains with the same text count once."""
    groups: dict[str, dict[tuple[Any, ...], tuple[float, ChainRow]]] = {}
    for chain in chains:
        value = reward_of(chain, config)
        if value is not None:
            groups.setdefault(chain.problem.id, {}).setdefault((chain.steps, chain.answer), (value, chain))
    pairs: list[PairRow] = []
    for group in groups.values():
        ranked = sorted(group.values(), key=lambda pair: (-pair[0], pair[1].id))
        for number in range(min(config.per_question, len(ranked) // 2)):
            (high, better), (low, worse) = ranked[number], ranked[-1 - number]
            if high - low > config.gap and high >= config.least:
                pairs.append(_pair(better, worse, high, low))
    return pairs


def widest(chains: Sequence[ChainRow], config: PairsConfig) -> str:
    """How far apart the chains of one question lie at most, as a message tells it."""
    anything = config.model_copy(update={"gap": 0.0, "least": 0.0, "per_question": 1})
    found = pairs_of(chains, anything)
    if not found:
        return "no question has two chains of different reward"
    far = max(found, key=lambda pair: pair.chosen_score - pair.rejected_score)
    return f"the farthest apart are {far.chosen_score:.3g} and {far.rejected_score:.3g}"


def _pair(better: ChainRow, worse: ChainRow, high: float, low: float) -> PairRow:
    chosen, rejected = (PairedChain(id=chain.id, steps=chain.steps, answer=chain.answer) for chain in (better, worse))
    return PairRow(problem=better.problem, chosen=chosen, rejected=rejected, chosen_score=high, rejected_score=low)


def summary(pairs: Sequence[PairRow], chains: Sequence[ChainRow]) -> dict[str, Any]:
    """How many, how far apart, and how often the chosen one is right; None is a mean of nothing."""
    right = {chain.id: rightness(chain) for chain in chains}
    chosen, rejected = [pair.chosen for pair in pairs], [pair.rejected for pair in pairs]

    def right_share(paired: Sequence[PairedChain]) -> float | None:
        return _mean([float(known) for one in paired if (known := right[one.id]) is not None])

    return {
        "questions": len({chain.problem.id for chain in chains}),
        "chains": len(chains),
        "pairs": len(pairs),
        "mean_gap": _mean([pair.chosen_score - pair.rejected_score for pair in pairs]),
        "chosen_right": right_share(chosen),
        "rejected_right": right_share(rejected),
        "chosen_steps": _mean([len(one.steps) for one in chosen]),
        "rejected_steps": _mean([len(one.steps) for one in rejected]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(math.fsum(values) / len(values), 4) if values else None
