"""Stage `label`: a label for every step and answer of chains, by each source that is asked.

Written: ``chains.jsonl``, the chains with the labels they had and the new ones, each with who gave it. With
``consensus`` only chains stay on whose every tag all sources agree; how far they agree is printed and stands in
``done.json``. A chain that a source could not label has no labels of that source; ``done.json`` counts labelled and
failed chains by source, and where more failed than ``failed_at_most`` the stage ends with an error. Finished chains
stand in ``judge.journal`` (judge) and ``labels.journal`` (Monte Carlo) until the stage has ended well: a run that was
stopped, or ended with an error, goes on and tries again what failed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cos.evaluation.failures import check_share, most_often, naming, of_row, of_stage
from cos.evaluation.in_process import open_models
from cos.evaluation.journal import Journal, work_off
from cos.evaluation.progress import bar_of, tell
from cos.evaluation.sampling import ChainSampler, ChainSampling
from cos.prm.choice import NO_PRM
from cos.search.errors import InputError
from cos.training.config.recipe import LabelConfig
from cos.training.data.preflight import Intake, chains_of, reads_pictures
from cos.training.data.problems import images_of
from cos.training.data.rows import ChainRow, Labels, Source, TagLabel, check_gold, write_rows
from cos.training.data.splits import check_unseen
from cos.training.labels.consensus import agreed_chains, agreements, table
from cos.training.labels.llm_judge import judge_labels
from cos.training.labels.monte_carlo import Continuing, monte_carlo_labels
from cos.training.menu import generated_task
from cos.training.runs.folder import StageContext, StageRun
from cos.training.stages.rollout import CHAINS

JOURNAL = "labels.journal"
JUDGE_JOURNAL = "judge.journal"
CONCURRENT = 96
"""Continuations drawn at once."""


def run_label(config: LabelConfig, context: StageContext) -> None:
    """Labels the chains of a recipe's section. Errors: InputError, EngineDead, StageError."""
    with StageRun(context, "label") as stage, naming(of_stage(context.folder.name)):
        intake = Intake(context)
        images = images_of(config, context)
        chains = chains_of(config.chains, intake, images=images, pictures=reads_pictures(config))
        leaks = check_unseen(context, [chain.problem for chain in chains], (config.policy,))
        if {"judge", "monte_carlo"} & set(config.sources):
            check_gold(chain.problem for chain in chains)
        if "exact" in config.sources:
            chains = [with_labels(chain, "exact", _exact(chain)) for chain in chains]
        outcome: dict[str, Any] = {"chains": len(chains), **intake.facts, **leaks}
        if config.judge is not None:
            # First of those that take long: a key or URL that is wrong shows at its first request.
            journal = context.folder / JUDGE_JOURNAL
            given, outcome["judge"] = asyncio.run(judge_labels(chains, config.judge, journal, config.failed_at_most))
            chains = [with_labels(chain, "judge", labels) for chain, labels in zip(chains, given, strict=True)]
        if "monte_carlo" in config.sources:
            found, spent = asyncio.run(_continue(config, context, chains))
            chains = [with_labels(chain, "monte_carlo", found.get(chain.id)) for chain in chains]
            outcome |= spent
        compared = agreements(chains, config.sources)
        if compared:
            outcome["agreement"] = [asdict(one) for one in compared]
            tell("agreement", {"": "\n" + table(compared)})
        kept = agreed_chains(chains, config.sources) if config.consensus else chains
        labelled = {source: sum(source in chain.labels for chain in chains) for source in config.sources}
        outcome |= {
            "labelled": labelled,
            "failed": {source: len(chains) - count for source, count in labelled.items()},
            "kept": len(kept),
            "good_share": {source: good_share(kept, source) for source in config.sources},
        }
        write_rows(context.folder / CHAINS, kept)
        for journal in (JOURNAL, JUDGE_JOURNAL):
            (context.folder / journal).unlink(missing_ok=True)
        stage.finish(outcome=outcome)
    tell("label", outcome)


def _exact(chain: ChainRow) -> tuple[TagLabel, ...]:
    with naming(of_row(chain.id)):
        return generated_task().exact_labels(chain)


def with_labels(chain: ChainRow, source: Source, labels: Labels | None) -> ChainRow:
    """The chain with one source's labels in place of those it had from there; None: with none."""
    others = {other: given for other, given in chain.labels.items() if other != source}
    return replace(chain, labels=others if labels is None else {**others, source: labels})


def good_share(chains: Sequence[ChainRow], source: Source) -> float | None:
    """Share of tags that a source calls good; None of nothing."""
    tags = [label.hard for chain in chains for label in chain.labels.get(source, ()) if label is not None]
    return round(sum(tags) / len(tags), 4) if tags else None


async def _continue(
    config: LabelConfig, context: StageContext, chains: Sequence[ChainRow]
) -> tuple[dict[str, tuple[TagLabel, ...]], dict[str, int]]:
    """Monte-Carlo labels by chain id, and what they took."""
    policy = context.checkpoint(config.policy or "")
    sampling = ChainSampling(temperature=config.temperature, top_p=config.top_p, max_tokens=None, seed=context.seed)
    async with open_models(policy, NO_PRM, threads=context.threads) as found:
        sampler = ChainSampler(found.models, sampling, CONCURRENT, logprobs=False)
        return await continued(sampler, config, chains, context.folder / JOURNAL, {"policy": policy})


async def continued(
    sampler: ChainSampler, config: LabelConfig, chains: Sequence[ChainRow], journal_path: Path, of: Mapping[str, Any]
) -> tuple[dict[str, tuple[TagLabel, ...]], dict[str, int]]:
    """Monte-Carlo labels by chain id, and what they took. ``of`` says whose they are: a run never goes on with another
    policy's.

    Errors: InputError when two chains have one id, and else as `monte_carlo_labels`; StageError when more than
    ``failed_at_most`` of the chains got no labels. A run that goes on tries again those that got none.
    """
    how = Continuing(continuations=config.continuations, hard_above=config.hard_above)
    of_problem: dict[str, list[ChainRow]] = {}
    for chain in chains:
        of_problem.setdefault(chain.problem.id, []).append(chain)
    ((name, count),) = Counter(chain.id for chain in chains).most_common(1)
    if count > 1:
        raise InputError(f"id {name!r} names {count} chains; give each one of its own", "chains")
    with Journal(journal_path, {**of, **asdict(sampler.sampling), **asdict(how)}) as journal:
        known = {name: value["shares"] for name, value in journal.done.items()}
        missing = {
            name: [chain for chain in group if chain.id not in known.get(name, {})]
            for name, group in of_problem.items()
        }
        waiting = [name for name, group in missing.items() if group]
        with bar_of("label", len(of_problem), len(of_problem) - len(waiting)) as bar:

            async def label(name: str) -> None:
                with naming(of_row(name)):
                    labels, spent = await monte_carlo_labels(sampler, missing[name], how)
                shares = {chain: [tag.soft for tag in tags] for chain, tags in labels.items()}
                before = journal.done.get(name, {"shares": {}, "spent": {}})
                journal.add(
                    name,
                    {
                        "shares": {**before["shares"], **shares},
                        "spent": {key: count + before["spent"].get(key, 0) for key, count in asdict(spent).items()},
                    },
                )
                bar.update()

            await work_off(waiting, label, sampler.workers(config.continuations))
        labels, spent = _read(journal.done, config.hard_above)
    failed = sum(chain.id not in labels for chain in chains)
    whys = [most_often(sampler.lost)] * failed
    check_share("chains could not be continued", whys, len(chains), config.failed_at_most)
    return labels, spent


def _read(
    done: Mapping[str, Mapping[str, Any]], hard_above: float
) -> tuple[dict[str, tuple[TagLabel, ...]], dict[str, int]]:
    labels = {
        name: tuple(TagLabel(share, share > hard_above) for share in shares)
        for value in done.values()
        for name, shares in value["shares"].items()
    }
    spent: dict[str, int] = {}
    for value in done.values():
        for key, number in value["spent"].items():
            spent[key] = spent.get(key, 0) + number
    return labels, spent
