"""The report as Markdown and as JSON."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cos.benchmarks.report import markdown_table
from cos.benchmarks.reproduce.findings import Section, Table
from cos.evaluation.provenance import Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the report's figures come from."""

    command: str
    problems: int
    seed: int
    temperature: float
    top_p: float
    commits: tuple[str, ...]
    """Under which the figures were measured."""
    provenance: Facts


def markdown(sections: Sequence[Section], origin: Origin, plots: str, remarks: str = "") -> str:
    """The report; ``plots`` is the folder of its plots as seen from it, ``remarks`` what its reader made of it."""
    parts = [_head(sections, origin), _overview(sections)]
    if remarks.strip():
        parts.append(f"## Remarks\n\n{remarks.strip()}")
    parts += [_section(section, plots) for section in sections if not section.missing]
    absent = [section for section in sections if section.missing]
    if absent:
        lines = "\n".join(f"- {section.title}: {section.missing}" for section in absent)
        parts.append(f"## Not measured\n\n{lines}")
    return "\n\n".join(parts) + "\n"


def _head(sections: Sequence[Section], origin: Origin) -> str:
    where = origin.provenance
    machine = where["hardware"]
    gpus = f", GPUs {', '.join(machine['gpus'])}" if machine["gpus"] else ""
    commits = ", ".join(f"`{commit}`" for commit in origin.commits)
    facts = (
        f"- {origin.problems:,} held-out ledgers (digits by MNIST's test writers), drawn with seed {origin.seed}; "
        f"sampling at temperature {origin.temperature:g}, top-p {origin.top_p:g}, from the same seed\n"
        f"- policy {where['policy']} `{where['checkpoints']['policy'] or '-'}`, PRM {where['prm']} "
        f"`{where['checkpoints']['prm'] or '-'}`: the first digits of the weights' SHA-256\n"
        f"- measured at commit {commits or '-'} (`-dirty`: with changes not yet committed), reported at "
        f"`{where['commit']}`; vLLM {where['vllm']}, Python {where['python']}\n"
        f"- {machine['cpu']}, {machine['cores']} cores{gpus}\n"
        f"- `{origin.command}`"
    )
    measured = sum(not section.missing for section in sections)
    return (
        "# The paper in miniature\n\n"
        "Findings of arXiv 2509.19003 (8B policies, a 38B PRM) measured anew on the ledger task with cos-tiny. "
        "What can agree is the sign of a difference, not its size: tasks, models and data differ by orders of "
        "magnitude.\n\n"
        f"{facts}\n\n"
        f"{measured} of {len(sections)} parts. All intervals are 95 %, by bootstrap over problems; differences are in "
        "percentage points and paired by problem. Measurements of earlier runs are taken over only where checkpoints, "
        "seed and settings are the same."
    )


def _overview(sections: Sequence[Section]) -> str:
    rows = [
        (finding.claim, finding.shown, finding.paper or "-", finding.verdict)
        for section in sections
        for finding in section.findings
    ]
    remarks = [finding.remark for section in sections for finding in section.findings if finding.remark]
    text = "## Findings\n\n" + (
        markdown_table(("claim", "ours (95 % interval)", "paper", "verdict"), rows) if rows else "None was measured."
    )
    if remarks:
        text += "\n\nWhere we do not find what the paper finds:\n\n" + "\n".join(f"- {remark}" for remark in remarks)
    return text


def _section(section: Section, plots: str) -> str:
    parts = [f"## {section.title}", section.text]
    parts += [_table(table) for table in section.tables]
    if section.plot is not None:
        parts.append(f"![{section.title}]({plots}/{section.plot})")
    return "\n\n".join(part for part in parts if part)


def _table(table: Table) -> str:
    caption = f"{table.caption}:\n\n" if table.caption else ""
    return caption + markdown_table(table.columns, table.rows)


def facts(sections: Sequence[Section], origin: Origin, report: Path, plots: Sequence[Path]) -> Facts:
    """The report's figures as JSON."""
    return {
        "report": os.fspath(report),
        "plots": [os.fspath(path) for path in plots],
        "command": origin.command,
        "problems": origin.problems,
        "seed": origin.seed,
        "temperature": origin.temperature,
        "top_p": origin.top_p,
        "measured_at": list(origin.commits),
        "findings": [finding.facts() for section in sections for finding in section.findings],
        "sections": {section.name: dict(section.facts) for section in sections if not section.missing},
        "missing": {section.name: section.missing for section in sections if section.missing},
        **origin.provenance,
    }
