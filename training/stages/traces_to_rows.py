"""From stored traces of served searches to training data, by one command: PRM rows and preference pairs.

Written: ``chains.jsonl``, every answered chain all of whose tags the serving PRM scored, with labels of the source
``serving`` (soft: the score; hard: whether it reaches ``hard_at``), and ``pairs.jsonl``, pairs of them by chain score.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from cos.evaluation.progress import tell
from cos.search.errors import InputError
from cos.training.config.recipe import PairsConfig
from cos.training.config.section import Keys
from cos.training.data.rows import write_rows
from cos.training.data.trace_reader import harvest
from cos.training.runs.folder import StageContext, StageRun
from cos.training.stages.pairs import pairs_of, summary

CHAINS, PAIRS = "chains.jsonl", "pairs.jsonl"


class TracesConfig(Keys):
    """What becomes of stored traces."""

    traces: tuple[str, ...] = Field(min_length=1)
    """Folders that cos-serve had as --trace-dir."""
    gap: float = Field(default=0.2, ge=0)
    """Two chains are paired when their chain scores differ by more."""
    step_weight: float = Field(default=0.2, ge=0, le=1)
    """Share of the steps in a chain's score."""
    per_question: int = Field(default=1, ge=1)
    """Most pairs a question."""
    hard_at: float = Field(default=0.5, ge=0, le=1)
    """Score from which a tag is called good."""


def run_traces(config: TracesConfig, context: StageContext) -> None:
    """Writes chains and pairs into the context's folder.

    Errors: InputError for folders without traces, bad traces unless ``context.skip_bad``, or no chain that can be used.
    """
    with StageRun(context, "traces") as run:
        folders = [Path(folder).expanduser() for folder in config.traces]
        found = harvest(folders, hard_at=config.hard_at, skip_bad=context.skip_bad)
        usable = [row for row in found.chains if "serving" in row.labels]
        if not usable:
            counts = ", ".join(f"{name} {count}" for name, count in found.counts.items())
            raise InputError(
                f"no chain has an answer and a PRM score of every tag ({counts}); serve with a PRM whose scores are "
                "probabilities",
                "traces",
            )
        rule = PairsConfig(
            traces=config.traces, gap=config.gap, step_weight=config.step_weight, per_question=config.per_question
        )
        pairs = pairs_of(usable, rule)
        write_rows(context.folder / CHAINS, usable)
        write_rows(context.folder / PAIRS, pairs)
        outcome = {**found.counts, **summary(pairs, usable)}
        run.finish(outcome=outcome)
    tell("traces", outcome)
