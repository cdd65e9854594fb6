"""Strategies compared on the same problems: one against a baseline, or all of them over several widths."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cos.benchmarks.report import difference_facts, markdown_table, outcome_facts, percent, percent_range
from cos.benchmarks.setting import Setting
from cos.checkpoints import LedgerProblem
from cos.evaluation.accuracy import Outcome, evaluate, root_seed
from cos.evaluation.provenance import Facts
from cos.search.errors import InputError
from cos.search.models import Models
from cos.search.spec import SearchSpec

COLUMNS = ("strategy", "n", "accuracy", "95 % CI", "policy tokens", "PRM reads", "p95 s", "seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What every setting of a comparison shares."""

    models: Models
    problems: Sequence[LedgerProblem]
    seed: int
    concurrency: int

    async def run(self, setting: Setting) -> Outcome:
        """Evaluates one setting. Errors: as `evaluate`."""

        def spec_for(problem: LedgerProblem) -> SearchSpec:
            return setting.spec(root_seed(self.seed, problem.id))

        label = setting.strategy if setting.n is None else f"{setting.strategy}@{setting.n}"
        return await evaluate(self.models, self.problems, spec_for, self.concurrency, label)

    def facts(self, setting: Setting, outcome: Outcome) -> Facts:
        """One setting's facts, with what was in force."""
        return outcome_facts(setting.under(self.models), outcome, self.seed)


async def compare(workload: Workload, ours: Setting, baseline: Setting | None) -> Facts:
    """One setting's facts; with a baseline its facts, too, and the paired difference (ours minus the baseline's)."""
    outcome = await workload.run(ours)
    facts = workload.facts(ours, outcome)
    if baseline is None:
        return facts
    other = await workload.run(baseline)
    return {
        **facts,
        **difference_facts(outcome, other, workload.seed),
        "against": workload.facts(baseline, other),
    }


@dataclass(frozen=True, slots=True)
class Grid:
    """Settings to compare, and what a strategy does not take."""

    settings: tuple[Setting, ...]
    left_out: tuple[str, ...]
    """One sentence for each width that is too much for a strategy."""


def grid_of(like: Setting, strategies: Sequence[str], widths: Sequence[int]) -> Grid:
    """Every strategy at every width that it takes; a strategy without a width once. Errors: InputError for a strategy
    that there is not, or that takes none of the widths."""
    settings: dict[Setting, None] = {}
    left_out: list[str] = []
    for name in strategies:
        refused: list[InputError] = []
        for n in widths:
            try:
                settings[replace(like, strategy=name, n=n, beam_width=None).fitted()] = None
            except InputError as error:
                refused.append(error)
        if len(refused) == len(widths):
            raise refused[0]
        left_out += [f"{name} is left out at {error}" for error in refused]
    return Grid(tuple(settings), tuple(left_out))


async def sweep(workload: Workload, settings: Sequence[Setting], baseline: Setting | None) -> AsyncIterator[Facts]:
    """The facts of each setting as soon as it is measured; with a baseline also the paired differences to it."""
    other = None if baseline is None else await workload.run(baseline)
    for setting in settings:
        outcome = other if other is not None and setting == baseline else await workload.run(setting)
        facts = workload.facts(setting, outcome)
        yield facts if other is None else {**facts, **difference_facts(outcome, other, workload.seed)}


def cells(row: Facts) -> tuple[str, ...]:
    """One row of facts as `COLUMNS`, and the difference to the baseline if there is one."""
    values: tuple[Any, ...] = (
        row["strategy"],
        row["n"],
        percent(row["accuracy"]),
        percent_range(row["ci_low"], row["ci_high"]),
        f"{row['policy_tokens']:,}",
        f"{row['prm_reads']:,}",
        "" if row["latency_p95_s"] is None else f"{row['latency_p95_s']:.2f}",
        f"{row['seconds']:.0f}",
    )
    shown = tuple(map(str, values))
    if "difference" not in row:
        return shown
    low, high = points(row["difference_ci_low"]), points(row["difference_ci_high"])
    return (*shown, f"{points(row['difference'])} ({low} to {high})")


def points(share: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * share:+.1f}"


def grid_table(rows: Sequence[Facts]) -> str:
    """The grid in Markdown; differences in percentage points."""
    paired = any("difference" in row for row in rows)
    return markdown_table((*COLUMNS, *(("difference",) if paired else ())), [cells(row) for row in rows])
