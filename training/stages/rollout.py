"""Stage `rollout`: whole chains of a policy, so many for each problem, drawn through our own engine.

Written: ``chains.jsonl`` (the chains that have an answer, in the problems' order) and, for ledgers, ``problems.jsonl``
with ``images/``. While it runs, finished problems stand in ``chains.journal``: a run that was stopped goes on from
there, and no chain is drawn with another seed than it would have had.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cos.evaluation.failures import StageError, check_share, naming, of_row, of_stage
from cos.evaluation.in_process import open_models
from cos.evaluation.journal import Journal, work_off
from cos.evaluation.progress import bar_of, tell
from cos.evaluation.sampling import ChainSampler, ChainSampling, Continuation
from cos.prm.choice import NO_PRM
from cos.training.data.pieces import steps_and_answer, steps_as_json, steps_from_json, steps_of
from cos.training.data.preflight import Intake
from cos.training.data.problems import problems_of
from cos.training.data.questions import is_right, question_of
from cos.training.data.rows import ChainRow, ProblemRow, write_rows
from cos.training.runs.folder import StageContext, StageRun

if TYPE_CHECKING:
    from cos.training.config.recipe import RolloutConfig

CHAINS = "chains.jsonl"
JOURNAL = "chains.journal"


def run_rollout(config: "RolloutConfig", context: StageContext) -> None:
    """Draws the chains of a recipe's section into the stage's folder.

    Errors: InputError for problems or a policy that cannot be used, or a folder begun with other settings; EngineDead;
    StageError for all else.
    """
    with StageRun(context, "rollout") as stage, naming(of_stage(context.folder.name)):
        intake = Intake(context)
        problems = problems_of(config.problems, context, intake)
        policy = context.checkpoint(config.policy)
        sampling = ChainSampling(
            temperature=config.temperature, top_p=config.top_p, max_tokens=config.max_tokens, seed=context.seed
        )

        async def work() -> dict[str, Any]:
            async with open_models(policy, NO_PRM, threads=context.threads) as found:
                sampler = ChainSampler(found.models, sampling, config.concurrency, logprobs=config.logprobs)
                return await roll_out(
                    sampler,
                    problems,
                    context.folder,
                    config.each,
                    {"policy": policy},
                    failed_at_most=config.failed_at_most,
                )

        stage.finish(outcome={**asyncio.run(work()), **intake.facts})


async def roll_out(
    sampler: ChainSampler,
    problems: Sequence[ProblemRow],
    folder: Path,
    each: int,
    of: Mapping[str, Any],
    *,
    failed_at_most: float,
) -> dict[str, Any]:
    """Draws ``each`` chains for every problem, writes them and returns the summary.

    ``of`` says whose chains they are: a run never goes on with another policy's. Errors: InputError, EngineDead,
    StageError, which also says that more than the share ``failed_at_most`` of the chains were lost, or that none has an
    answer; those of a problem name it. A run that goes on draws again what was lost.
    """
    with Journal(folder / JOURNAL, {**of, "each": each, **asdict(sampler.sampling)}) as journal:
        known = {name: value["endings"] for name, value in journal.done.items()}
        waiting = [problem for problem in problems if None in known.get(problem.id, [None])]
        with bar_of("rollout", len(problems), len(problems) - len(waiting)) as bar:

            async def roll(problem: ProblemRow) -> None:
                endings = list(known.get(problem.id, [None] * each))
                missing = [number for number, ending in enumerate(endings) if ending is None]
                with naming(of_row(problem.id)):
                    session = await sampler.open(await question_of(problem))
                    drawn = await sampler.draw(session, problem.id, missing)
                for number, ending in zip(missing, drawn, strict=True):
                    endings[number] = None if ending is None else _stored(ending)
                journal.add(problem.id, {"endings": endings})
                bar.update()

            await work_off(waiting, roll, sampler.workers(each))
        check_share("chains could not be drawn", sampler.lost, each * len(problems), failed_at_most)
        outcome = _summary(problems, journal.done)
        if outcome["unanswered"] == outcome["chains"]:
            failed = f" ({outcome['lost']} requests failed)" if outcome["lost"] else ""
            raise StageError(
                f"none of {outcome['chains'] + outcome['lost']} chains has an answer{failed}: the policy does not "
                "write chains of steps. Train it longer on such chains (stage `sft`), or, if they are cut off, raise "
                "max_tokens; then begin this stage again with --fresh"
            )
        write_rows(folder / CHAINS, _chains(problems, journal.done))
    (folder / JOURNAL).unlink()
    tell("rollout", outcome)
    return outcome


def _stored(found: Continuation) -> dict[str, Any]:
    """A drawn chain as the journal holds it."""
    if found.answer is None:
        steps, answer = steps_of(found.steps), None
    else:
        steps, answer = steps_and_answer([*found.steps, found.answer])
    return {
        "steps": steps_as_json(steps),
        "answer": answer,
        "tokens": found.tokens,
        "logprob": found.logprob,
    }


def _chains(problems: Sequence[ProblemRow], done: Mapping[str, Mapping[str, Any]]) -> Iterator[ChainRow]:
    for problem in problems:
        for number, ending in enumerate(done[problem.id]["endings"]):
            if ending is not None and ending["answer"] is not None:
                yield ChainRow(
                    id=f"{problem.id}/{number}",
                    problem=problem,
                    steps=steps_from_json(ending["steps"]),
                    answer=ending["answer"],
                    right=is_right(ending["answer"], problem),
                    logprob=ending["logprob"],
                )


def _summary(problems: Sequence[ProblemRow], done: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Shares are of all chains: one without an answer is not right."""
    found = [(problem, done[problem.id]) for problem in problems]
    drawn = [(ending, problem) for problem, value in found for ending in value["endings"]]
    every = [(ending, problem) for ending, problem in drawn if ending is not None]
    answered = [(ending, problem) for ending, problem in every if ending["answer"] is not None]
    right = [is_right(ending["answer"], problem) for ending, problem in answered]
    solved = {problem.id for (_, problem), good in zip(answered, right, strict=True) if good}
    return {
        "problems": len(problems),
        "chains": len(every),
        "unanswered": len(every) - len(answered),
        "lost": len(drawn) - len(every),
        "right_share": round(sum(right) / max(1, len(every)), 4),
        "solved_share": round(len(solved) / max(1, len(problems)), 4),
        "mean_steps": round(sum(len(ending["steps"]) for ending, _ in answered) / max(1, len(answered)), 3),
        "tokens": sum(ending["tokens"] for ending, _ in every),
    }
