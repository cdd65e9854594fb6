"""The stage ``evaluate``: the accuracy of a PRM's verdicts and of a policy's answers on held-out data.

Step and answer accuracy of the PRM on labelled chains have the shape of the paper's Table 3; calibration goes with
them. The policy is measured alone and under search. All of it is written to ``evaluation.json``, the reliability plot
to ``reliability.png``.
"""

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from cos.checkpoints import resolve
from cos.engines.pictures import read_file
from cos.evaluation.accuracy import Outcome, evaluate, root_seed
from cos.evaluation.calibration import plot_reliability
from cos.evaluation.failures import naming, of_stage
from cos.evaluation.files import replacing
from cos.evaluation.in_process import open_models, open_prm
from cos.evaluation.provenance import Facts, machine, revision
from cos.evaluation.statistics import bootstrap_mean
from cos.evaluation.verdicts import (
    Labelled,
    accuracy_facts,
    balanced_curve,
    calibration_facts,
    corrected,
    verdicts_of,
)
from cos.prm.choice import NO_PRM
from cos.search.errors import InputError
from cos.search.models import Models
from cos.search.select import ScoreKind
from cos.search.spec import SearchSpec
from cos.search.terms import Sampling
from cos.training.config.recipe import EvaluateConfig
from cos.training.data.preflight import Intake, chains_of, reads_pictures
from cos.training.data.problems import images_of, problems_of
from cos.training.data.rows import ChainRow, ProblemRow
from cos.training.data.sources import ChainSource
from cos.training.data.splits import claim
from cos.training.labels.prm_scores import read_chains
from cos.training.runs.folder import StageContext, StageRun

REPORT, PLOT = "evaluation.json", "reliability.png"


def run_evaluate(config: EvaluateConfig, context: StageContext) -> None:
    """Measures and writes both files.

    Errors: InputError for chains without the wanted labels, too few of a kind, or models that do not start; EngineDead;
    StageError for all else.
    """
    with StageRun(context, "evaluate") as run, naming(of_stage(context.folder.name)):
        facts = asyncio.run(_measure(config, context))
        with replacing(context.folder / REPORT) as file:
            file.write(json.dumps(facts, indent=2, allow_nan=False) + "\n")
        run.finish(outcome={name: facts[name] for name in HEADLINE if name in facts})


HEADLINE = ("step_accuracy", "answer_accuracy", "ece", "policy", "rows", "skipped", "leaks")
"""What of it ``done.json`` repeats."""


async def _measure(config: EvaluateConfig, context: StageContext) -> Facts:
    """Errors: as `run_evaluate`; files are read before engines start."""
    intake = Intake(context)
    unseen, seen = (_chains(config, context, paths, intake) for paths in (config.chains, config.seen_chains))
    asked_of = [] if config.problems is None else problems_of(config.problems, context, intake)
    problems = [RowProblem(row) for row in asked_of]
    asked = [*(chain.problem for chain in unseen), *(problem.row for problem in problems)]
    leaks = claim(context, "evaluation", asked, checkpoints=(config.policy, config.prm))
    prm, policy = (name and context.checkpoint(name) for name in (config.prm, config.policy))
    facts: Facts = {}
    async with AsyncExitStack() as stack:
        models = await _models(config, context, stack, policy, prm)
        if unseen:
            scores = await _scores([*unseen, *seen], config, models)
            judged = [
                Labelled(row.problem.id, tags, [label and label.hard for label in row.labels[config.labels]])
                for row, tags in zip([*unseen, *seen], scores, strict=True)
            ]
            facts |= prm_facts(judged[: len(unseen)], config, context)
            facts |= {"seen": questions_facts(judged[len(unseen) :], context.seed)} if seen else {}
        if models is not None and policy is not None:
            facts["policy"] = await policy_facts(models, problems, config, context.seed)
    return {
        **facts,
        **intake.facts,
        **leaks,
        "labels": config.labels,
        "seed": context.seed,
        "dtype": config.dtype,
        "checkpoints": {
            "prm": prm and revision(resolve("prm", prm)),
            "policy": policy and revision(resolve("policy", policy)),
        },
        **machine(),
    }


async def _models(
    config: EvaluateConfig, context: StageContext, stack: AsyncExitStack, policy: str | None, prm: str | None
) -> Models | None:
    """What searches, or, without a policy, what scores; None where nothing need be started."""
    if policy is not None:
        found = await stack.enter_async_context(open_models(policy, prm or NO_PRM, dtype=config.dtype))
        return found.models
    if prm is None or config.stored_scores:
        return None
    return await stack.enter_async_context(open_prm(prm, threads=context.threads, dtype=config.dtype))


async def _scores(
    chains: Sequence[ChainRow], config: EvaluateConfig, models: Models | None
) -> list[list[float | None]]:
    """A score for every tag: stored ones, or read anew. Errors: InputError when neither can be."""
    if not config.stored_scores:
        if models is None or models.scorer is None:
            raise InputError("chains are judged by a PRM: give prm, or stored_scores: true", "prm")
        return [[*(row.scores or ())] for row in await read_chains(chains, models, config.concurrency)]
    bare = next((row.id for row in chains if row.scores is None), None)
    if bare is not None:
        raise InputError(f"chain {bare!r} has no stored scores; leave out stored_scores to have it read", "chains")
    return [[*(row.scores or ())] for row in chains]


def _chains(
    config: EvaluateConfig, context: StageContext, sources: Sequence[ChainSource], intake: Intake
) -> list[ChainRow]:
    """Labelled chains. Errors: InputError when one lacks the labels that are wanted."""
    found: list[ChainRow] = []
    for one in sources:
        images = images_of(config, context)
        for row in chains_of([one], intake, images=images, pictures=reads_pictures(config)):
            if config.labels not in row.labels:
                has = ", ".join(row.labels) or "none at all"
                raise InputError(
                    f"{one.path}: chain {row.id!r} has no labels by {config.labels!r} (it has {has}); "
                    "run the stage `label`, or change labels",
                    "labels",
                )
            found.append(row)
    return found


def questions_facts(chains: Sequence[Labelled], seed: int) -> Facts:
    """Accuracy and calibration over some questions. Errors: as `verdicts_of`, `accuracy_facts`."""
    verdicts, unscored = verdicts_of(chains)
    accuracy = accuracy_facts(verdicts, seed)
    calibration = calibration_facts(verdicts, seed)
    return {
        "step_accuracy": accuracy["steps"]["accuracy"],
        "answer_accuracy": accuracy["answers"]["accuracy"],
        "ece": calibration["ece"],
        "chains": len(chains),
        "problems": int(verdicts.problem.max()) + 1,
        "tags": int(verdicts.good.size),
        "unscored": unscored,
        **accuracy,
        "calibration": calibration,
    }


def prm_facts(chains: Sequence[Labelled], config: EvaluateConfig, context: StageContext) -> Facts:
    """The same with corrections of the scores, and the reliability plot."""
    verdicts, _ = verdicts_of(chains)
    facts = questions_facts(chains, context.seed)
    curves = {"PRM": balanced_curve(verdicts)}
    if config.calibration_share > 0:
        mended = corrected(verdicts, config.calibration_share, context.seed)
        facts["calibration"]["corrected"] = mended.facts
        curves["with scale and bias"] = balanced_curve(mended.tried, mended.platt)
    plot_reliability(context.folder / PLOT, curves, "Reliability, good and bad tags counting the same")
    return {**facts, "plot": str(context.folder / PLOT)}


@dataclass(frozen=True, slots=True)
class RowProblem:
    """A problem row as `cos.evaluation.accuracy.EvaluationProblem`."""

    row: ProblemRow

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def kind(self) -> str:
        return str(self.row.meta.get("kind", "question"))

    @property
    def question(self) -> str:
        return self.row.question

    @property
    def answer(self) -> str:
        return self.row.answer

    @property
    def image_png(self) -> bytes | None:
        return None if self.row.image is None else read_file(self.row.image)


async def policy_facts(
    models: Models, problems: Sequence[RowProblem], config: EvaluateConfig, seed: int
) -> dict[str, Facts]:
    """Accuracy of every way to search, each with its interval and its paired difference to greedy."""
    found: dict[str, Outcome] = {}
    for search in searches(config.n, with_prm=models.scorer is not None):

        def spec(problem: RowProblem, search: SearchMethod = search) -> SearchSpec:
            sampling = Sampling(seed=root_seed(seed, problem.id), temperature=config.temperature, top_p=config.top_p)
            return SearchSpec(search.strategy, search.params, sampling=sampling, score=search.score, explain=False)

        found[search.name] = await evaluate(models, problems, spec, config.concurrency, search.name)
    return {name: _outcome(outcome, found["greedy"], seed) for name, outcome in found.items()}


@dataclass(frozen=True, slots=True)
class SearchMethod:
    """A strategy with its parameters and its kind of score."""

    name: str
    strategy: str
    params: Facts
    score: ScoreKind = "likelihood"


def searches(n: int, *, with_prm: bool) -> list[SearchMethod]:
    """What a policy is measured under: alone, by the rules that cost no PRM, and by the PRM."""
    alone = [
        SearchMethod("greedy", "greedy", {}),
        SearchMethod("one_sample", "self_consistency", {"n": 1}),
        SearchMethod("self_consistency", "self_consistency", {"n": n}),
        SearchMethod("likelihood", "best_of_n", {"n": n}),
    ]
    return [*alone, SearchMethod("best_of_n", "best_of_n", {"n": n}, "prm")] if with_prm else alone


def _outcome(outcome: Outcome, greedy: Outcome, seed: int) -> Facts:
    interval = bootstrap_mean(outcome.hits, seed)
    ahead = [mine - other for mine, other in zip(outcome.hits, greedy.hits, strict=True)]
    apart = bootstrap_mean(ahead, seed)
    return {
        "accuracy": outcome.accuracy,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "above_greedy": sum(ahead) / len(ahead),
        "above_greedy_ci_low": apart.low,
        "above_greedy_ci_high": apart.high,
        "problems": len(outcome.records),
        "unanswered": outcome.unanswered,
        "policy_tokens": outcome.policy_tokens,
        "prm_reads": outcome.prm_reads,
        "mean_steps": sum(record.steps for record in outcome.records) / len(outcome.records),
    }
