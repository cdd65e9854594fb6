"""Reports: how numbers are written down."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cos.benchmarks.setting import Setting
from cos.evaluation.accuracy import Outcome
from cos.evaluation.provenance import Facts
from cos.evaluation.statistics import bootstrap_mean


def outcome_facts(setting: Setting, outcome: Outcome, seed: int) -> Facts:
    """One evaluation as a flat JSON object."""
    interval = bootstrap_mean(outcome.hits, seed)
    return {
        **setting.facts(),
        "problems": len(outcome.records),
        "accuracy": outcome.accuracy,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "policy_tokens": outcome.policy_tokens,
        "prm_reads": outcome.prm_reads,
        "unanswered": outcome.unanswered,
        "seconds": round(outcome.seconds, 3),
        "latency_p95_s": outcome.latency_s(95),
        "seed": seed,
        "by_kind": {
            kind: {"problems": len(records), "accuracy": sum(record.is_right for record in records) / len(records)}
            for kind, records in outcome.by_kind.items()
        },
    }


def difference_facts(ours: Outcome, theirs: Outcome, seed: int) -> Facts:
    """How much more accurate ``ours`` is on the same problems, with its paired interval."""
    differences = [mine - other for mine, other in zip(ours.hits, theirs.hits, strict=True)]
    interval = bootstrap_mean(differences, seed)
    return {
        "difference": sum(differences) / len(differences),
        "difference_ci_low": interval.low,
        "difference_ci_high": interval.high,
    }


def json_line(facts: Mapping[str, Any]) -> str:
    """Facts on one line."""
    return json.dumps(facts, ensure_ascii=False, allow_nan=False)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a Markdown file; all columns but the first are numbers."""
    rule = ["---", *("---:" for _ in columns[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, rule, *rows))


def percent(share: float) -> str:
    """0.8125 as ``81.2 %``."""
    return f"{100 * share:.1f} %"


def percent_range(low: float, high: float) -> str:
    """A confidence interval as ``78.0 - 84.4 %``."""
    return f"{100 * low:.1f} - {100 * high:.1f} %"
