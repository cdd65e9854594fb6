"""Results of a plan for people, on stderr."""

from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from cos.evaluation.provenance import Facts

COLUMNS = ("measurement", "status", "seconds", "result")


def show(facts: Facts) -> None:
    """A table for each pair."""
    console = Console(stderr=True)
    for pair, entries in facts["pairs"].items():
        table = Table(title=f"policy:PRM {pair}", title_justify="left")
        for column in COLUMNS:
            table.add_column(column, justify="right" if column == "seconds" else "left")
        for name, entry in entries.items():
            table.add_row(name, entry["status"].replace("_", " "), f"{entry.get('seconds', 0):.1f}", told(name, entry))
        console.print(table)
    console.print(f"{facts['spent_s']:.0f} of {facts['limit_s']:.0f} s used")


def told(name: str, entry: Facts) -> str:
    """What came out, in short."""
    if entry["status"] != "done":
        return str(entry.get("error") or entry.get("why") or "the time was over while it ran")
    return SUMMARIES[name](entry["facts"])


def _models(facts: Facts) -> str:
    return ", ".join(f"{role} {one['hidden_size']} x {one['num_hidden_layers']} layers" for role, one in facts.items())


def _start(facts: Facts) -> str:
    return f"{facts['start_s']:.1f} s"


def _serving(facts: Facts) -> str:
    return "\n".join(
        f"{strategy}: "
        + ", ".join(f"{row['searches_per_s']:.2f}/s at {row['concurrency']}" for row in found["results"])
        + f", p50 {found['results'][0]['latency_p50_s']:.2f} s at {found['results'][0]['concurrency']}"
        for strategy, found in facts.items()
    )


def _ahead(facts: Facts) -> str:
    return "\n".join(
        f"{strategy}: p50 {found['p50_ratio']:.2f} of without, the same tree in {found['identical_searches']} of "
        f"{found['searches']}"
        for strategy, found in facts.items()
    )


def _contract(facts: Facts) -> str:
    if facts["same_trees"] is None:
        return f"{facts['accuracy']:.0%} right; nothing to compare with"
    gap = facts["largest_score_gap"]
    return (
        f"the same tree in {facts['same_trees']} of {facts['searches']}, the same answer in {facts['same_answers']}; "
        f"scores differ by up to {'nothing' if gap is None else f'{gap:.1e}'}"
    )


def _limit(facts: Facts) -> str:
    return ", ".join(f"efficiency {row['efficiency']:.2f} at {row['concurrency']}" for row in facts["results"])


def _barrier(facts: Facts) -> str:
    return f"{facts['speedup']:.2f} times the searches/s of one at a time, level by level"


def _prm_share(facts: Facts) -> str:
    return f"{facts['prm_share']:.0%} of the time"


def _cost(facts: Facts) -> str:
    return "\n".join(
        f"{strategy}: computed over needed: policy {found['policy_computed_over_needed']:.2f}, PRM "
        f"{found['computed_over_needed']:.2f}"
        for strategy, found in facts.items()
    )


def _memory(facts: Facts) -> str:
    caches = {role: facts[f"{role}_cache"] for role in ("policy", "prm")}
    blocks = [
        f"{role}: {cache['num_gpu_blocks']} blocks of {cache['block_size']} tokens"
        for role, cache in caches.items()
        if cache is not None
    ]
    return ", ".join(blocks) or "no engine tells"


SUMMARIES: dict[str, Callable[[Facts], str]] = {
    "widening": _models,
    "server_start": _start,
    "serving": _serving,
    "ahead": _ahead,
    "engine_start": _start,
    "contract": _contract,
    "limit": _limit,
    "barrier": _barrier,
    "prm_share": _prm_share,
    "cost": _cost,
    "memory": _memory,
}
"""How each measurement is told."""
