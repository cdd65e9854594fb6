"""Strategies compared on the same problems: one against a rival, or all of them over several widths."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cos.benchmarks.ledger import Outcome, evaluate
from cos.benchmarks.report import Facts, difference_facts, markdown_table, outcome_facts, percent, percent_range
from cos.benchmarks.setting import Setting, root_seed
from cos.checkpoints import LedgerProblem
from cos.prm.pair import Pair
from cos.search.spec import SearchSpec

STRATEGIES = ("greedy", "self_consistency", "best_of_n", "beam", "greedy_prm")
WIDTHS = (1, 4, 8)
COLUMNS = ("strategy", "n", "accuracy", "95 % CI", "policy tokens", "PRM reads", "seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """What every setting of a comparison shares."""

    pair: Pair
    problems: Sequence[LedgerProblem]
    seed: int
    concurrency: int

    async def run(self, setting: Setting) -> Outcome:
        """Evaluates one setting. Errors: as `evaluate`."""

        def spec_for(problem: LedgerProblem) -> SearchSpec:
            return setting.spec(root_seed(self.seed, problem.id))

        label = setting.strategy if setting.n is None else f"{setting.strategy}@{setting.n}"
        return await evaluate(self.pair, self.problems, spec_for, self.concurrency, label)


async def compare(field: Field, ours: Setting, rival: Setting | None) -> Facts:
    """One setting's facts; with a rival also the rival's and the paired difference (ours minus the rival's)."""
    outcome = await field.run(ours)
    facts = outcome_facts(ours, outcome, field.seed)
    if rival is None:
        return facts
    other = await field.run(rival)
    return {
        **facts,
        **difference_facts(outcome, other, field.seed),
        "against": outcome_facts(rival, other, field.seed),
    }


def grid_settings(like: Setting) -> list[Setting]:
    """Every strategy at every width; a strategy without a width once."""
    every = [replace(like, strategy=name, n=n, beam_width=None).fitted() for name in STRATEGIES for n in WIDTHS]
    return list(dict.fromkeys(every))


async def sweep(field: Field, like: Setting) -> AsyncIterator[Facts]:
    """The facts of each grid setting as soon as it is measured."""
    for setting in grid_settings(like):
        yield outcome_facts(setting, await field.run(setting), field.seed)


def cells(row: Facts) -> tuple[str, ...]:
    """One row of facts as `COLUMNS`."""
    values: tuple[Any, ...] = (
        row["strategy"],
        row["n"],
        percent(row["accuracy"]),
        percent_range(row["ci_low"], row["ci_high"]),
        f"{row['policy_tokens']:,}",
        f"{row['prm_reads']:,}",
        f"{row['seconds']:.0f}",
    )
    return tuple(map(str, values))


def grid_table(rows: Sequence[Facts]) -> str:
    """The grid in Markdown."""
    return markdown_table(COLUMNS, [cells(row) for row in rows])
