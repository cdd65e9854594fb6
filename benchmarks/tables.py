"""Results for people, on stderr."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from cos.benchmarks.grid import COLUMNS, cells
from cos.benchmarks.report import percent, percent_range
from cos.evaluation.provenance import Facts


def show_comparison(facts: Facts) -> None:
    """An evaluation, its baseline and their difference."""
    baseline = facts.get("against")
    table = _table("Held-out ledgers", COLUMNS)
    table.add_row(*cells(facts))
    if baseline is not None:
        table.add_row(*cells(baseline))
    console = Console(stderr=True)
    console.print(table)
    kinds = ", ".join(f"{kind} {percent(part['accuracy'])} of {part['problems']}" for kind, part in _kinds(facts))
    console.print(f"By kind: {kinds}")
    if baseline is not None:
        spread = percent_range(facts["difference_ci_low"], facts["difference_ci_high"])
        console.print(f"Difference (paired): {percent(facts['difference'])}, 95 % CI {spread}")


def _kinds(facts: Facts) -> list[tuple[str, Facts]]:
    by_kind: dict[str, Facts] = facts["by_kind"]
    return list(by_kind.items())


def show_serving(facts: Facts) -> None:
    """Throughput and latency of each level."""
    names = (
        "at once",
        "searches/s",
        "p50 s",
        "p95 s",
        "first step s",
        "kept",
        "discarded",
        "cached",
        "requests",
        "errors",
    )
    table = _table("Serving", names)
    for row in facts["results"]:
        table.add_row(
            str(row["concurrency"]),
            f"{row['searches_per_s']:.2f}",
            f"{row['latency_p50_s']:.2f}",
            f"{row['latency_p95_s']:.2f}",
            "" if row["first_step_p50_s"] is None else f"{row['first_step_p50_s']:.3f}",
            f"{row['tokens_kept']:.0f}",
            f"{row['tokens_discarded']:.0f}",
            percent(row["cached_share"]),
            str(row["requests"]),
            str(row["errors"]),
        )
    console = Console(stderr=True)
    console.print(table)
    console.print(f"Speed-up from the first level to the last: {facts['speedup']:.2f}")


def show_cost(facts: Facts) -> None:
    """Both engines' bills."""
    table = _table("PRM prompt tokens", ("measure", "tokens", "per chain", "computed is"))
    computed: int = facts["computed_tokens"]
    for name in ("computed", "needed", "shared", "rescan"):
        tokens: int = facts[f"{name}_tokens"]
        table.add_row(name, f"{tokens:,}", f"{tokens / facts['chains']:.1f}", f"{computed / tokens:.2f} x")
    console = Console(stderr=True)
    console.print(table)
    written, over, again = (
        facts[f"policy_{name}"] for name in ("written_tokens", "computed_over_needed", "recomputed_per_request")
    )
    console.print(
        f"The policy wrote {written:,} tokens and computed {over:.2f} x what it needs: {again:.1f} a request again"
    )


def show_format_costs(facts: Facts) -> None:
    """What each PRM format computes."""
    columns = ("PRM format", "computed", "one pass", "ratio", "blocks of 32", "no cache")
    table = _table("Tokens that a PRM computes for a growing chain, over those of one pass", columns)
    for row in facts["formats"]:
        tokens = (f"{row[f'{name}_tokens']:,}" for name in ("computed", "needed"))
        on_cpu: float = facts["computed_over_needed_blocks_of_32"][row["prm_format"]]
        found = (row["computed_over_needed"], on_cpu, row["naive_over_needed"])
        ratios = (f"{ratio:.2f}" for ratio in found)
        table.add_row(row["prm_format"], *tokens, *ratios)
    Console(stderr=True).print(table)


def show_barrier(facts: Facts) -> None:
    """Both ways at each level."""
    columns = ("concurrency", "way", "searches/s", "p50 s", "p95 s", "accuracy")
    table = _table("Compared with one search at a time, level by level", columns)
    for row in facts["results"]:
        for way in ("ours", "barrier"):
            found: Facts = row[way]
            rate, median, late = (f"{found[key]:.2f}" for key in ("searches_per_s", "latency_p50_s", "latency_p95_s"))
            table.add_row(str(row["concurrency"]), way, rate, median, late, percent(found["accuracy"]))
    console = Console(stderr=True)
    console.print(table)
    spread = f"95 % CI {facts['speedup_ci_low']:.2f} - {facts['speedup_ci_high']:.2f}"
    console.print(f"Searches/s: {facts['speedup']:.2f} x, {spread}; p95: {facts['p95_ratio']:.2f} x")
    console.print(f"Same answers: {percent(facts['same_answers'])}")


def show_peers(facts: Facts) -> None:
    """Every other project, compared with cos-serve."""
    table = _table(
        "Other projects on the same models", ("project", "cos-serve", "at once", "speed-up", "p95", "accuracy")
    )
    for row in facts["results"]:
        faster = f"{row['speedup']:.2f} ({row['speedup_ci_low']:.2f} - {row['speedup_ci_high']:.2f})"
        both = f"{percent(row['theirs']['accuracy'])}, ours {percent(row['accuracy'])}"
        named = (f"{row['peer']}\n{row['strategy']}", row["our_strategy"], str(row["concurrency"]))
        table.add_row(*named, faster, f"{row['p95_ratio']:.2f}", both)
    Console(stderr=True).print(table)


def show_limit(facts: Facts) -> None:
    """Efficiency at each level."""
    table = _table("Searches and their engines' floor", ("concurrency", "efficiency", "95 % CI", "search s", "floor s"))
    for row in facts["results"]:
        spread = f"{row['ci_low']:.2f} - {row['ci_high']:.2f}"
        efficiency, searched, floor = (f"{row[name]:.2f}" for name in ("efficiency", "search_s", "floor_s"))
        table.add_row(str(row["concurrency"]), efficiency, spread, searched, floor)
    Console(stderr=True).print(table)


def show_metrics_cost(facts: Facts) -> None:
    """Both servers at each level."""
    columns = ("concurrency", "metrics", "searches/s", "p50 s", "p95 s")
    table = _table("Counting and not counting", columns)
    for row in facts["results"]:
        for way in ("on", "off"):
            found: Facts = row[way]
            numbers = (f"{found[key]:.2f}" for key in ("searches_per_s", "latency_p50_s", "latency_p95_s"))
            table.add_row(str(row["concurrency"]), way, *numbers)
    console = Console(stderr=True)
    console.print(table)
    for row in facts["results"]:
        spread = f"95 % CI {row['ratio_ci_low']:.3f} - {row['ratio_ci_high']:.3f}"
        console.print(f"Searches/s at {row['concurrency']}, on over off: {row['ratio']:.3f}, {spread}")


def show_speculation(facts: Facts) -> None:
    """Latency both ways."""
    table = _table(f"{facts['strategy']}, one search at a time", ("begins ahead", "p50 ms", "p95 ms"))
    table.add_row("yes", f"{1000 * facts['p50_s']:.0f}", f"{1000 * facts['p95_s']:.0f}")
    table.add_row("no", f"{1000 * facts['p50_without_s']:.0f}", f"{1000 * facts['p95_without_s']:.0f}")
    console = Console(stderr=True)
    console.print(table)
    spread = f"95 % CI {facts['ci_low']:.2f} - {facts['ci_high']:.2f}"
    same = f"{facts['identical_searches']} of {facts['searches']} searches came to the same tree"
    late = f"{facts['p95_ratio']:.2f}, 95 % CI {facts['p95_ci_low']:.2f} - {facts['p95_ci_high']:.2f}"
    shares = f"{percent(facts['begun_share'])} candidates begun ahead, {percent(facts['aborted_share'])} tokens in vain"
    console.print(f"p50 {facts['p50_ratio']:.2f}, {spread}; p95 {late}; {same}; {shares}")


def show_orchestrator(facts: Facts) -> None:
    """Steps a second at each level, and memory."""
    table = _table("Candidate steps over engines that answer at once", ("searches at once", "steps/s"))
    for row in facts["results"]:
        table.add_row(str(row["concurrency"]), f"{row['steps_per_s']:,.0f}")
    console = Console(stderr=True)
    console.print(table)
    other, text = facts["bytes_per_search"] / 1024, facts["text_bytes_per_search"] / 1024
    held = f"with {facts['candidates_held_per_search']:.0f} candidates"
    console.print(f"A live search {held} takes {other:.1f} KiB, and its text {text:.1f} KiB more")


def show_dashboards(facts: Facts) -> None:
    """How many have data, and what has none."""
    table = _table("Dashboards, alerts and recording rules", ("kind", "all", "with data"))
    for kind, answered in (("panels", "with_data"), ("alerts", "alerts_with_data"), ("rules", "rules_with_data")):
        table.add_row(kind, str(facts[kind]), str(facts[answered]))
    console = Console(stderr=True)
    console.print(table)
    for name, reason in facts["allowed"].items():
        console.print(f"{name}: empty, because {reason}")
    console.print(f"Alerts that were pending or fired: {', '.join(facts['alerts_active']) or 'none'}")


def show_training(facts: Facts) -> None:
    """Throughput of the pipeline and of the hand loop."""
    table = _table("SFT", ("loop", "tokens/s"))
    table.add_row("pipeline", f"{facts['pipeline_tokens_per_s']:,.0f}")
    table.add_row("by hand", f"{facts['hand_tokens_per_s']:,.0f}")
    console = Console(stderr=True)
    console.print(table)
    spread = f"95 % CI {facts['ci_low']:.2f} - {facts['ci_high']:.2f}"
    console.print(
        f"Hand loop over pipeline, median of {facts['repetitions']} rounds: {facts['over_hand_loop']:.2f}, {spread}"
    )


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=not index)
    return table
