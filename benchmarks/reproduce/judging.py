"""The PRM's accuracy on labelled chains, and where its labels came from."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from cos.benchmarks.pool import Pool, block_accuracy, rules
from cos.benchmarks.report import percent
from cos.benchmarks.reproduce import paper
from cos.benchmarks.reproduce.findings import Estimate, Finding, Section, Table, cell, mean, paired
from cos.evaluation.provenance import Facts
from cos.search.errors import InputError


def read_facts(path: Path, option: str) -> Facts:
    """A JSON object from a file. Errors: InputError for one that is missing or is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--{option} {path}: cannot be read as JSON ({error})", option) from error
    if not isinstance(found, dict):
        raise InputError(f"--{option} {path}: not a JSON object", option)
    return cast("Facts", found)


def accuracy_section(facts: Facts) -> Section:
    """The paper's table 3, from what ``cos train evaluate`` wrote. Errors: InputError when that lacks a part."""
    try:
        parts = {kind: facts[kind] for kind in ("steps", "answers")}
        calibration, apart = facts["calibration"], facts["answers_minus_steps"]
        estimates = {kind: _estimate(part, "accuracy") for kind, part in parts.items()}
        rows = [
            (
                kind,
                cell(estimates[kind]),
                *(percent(part[name]) for name in ("unbalanced_accuracy", "bad_found", "false_alarms")),
                f"{part['auc']:.3f}",
                f"{part['tags']}",
                f"{figure:.1f} %",
            )
            for (kind, part), figure in zip(parts.items(), (paper.STEP_ACCURACY, paper.ANSWER_ACCURACY), strict=True)
        ]
        ece, brier = _estimate(calibration, "ece"), calibration["brier"]
        problems, chains = facts["problems"], facts["chains"]
        difference = Estimate(apart["difference"], apart["ci_low"], apart["ci_high"])
    except KeyError as error:
        raise InputError(f"--evaluation: there is no {error} in it; give a PRM's evaluation.json", "evaluation") from (
            error
        )
    chance = [
        Finding(
            claim=f"{kind} judged better than by chance (balanced accuracy over 50 %)",
            ours=Estimate(found.value - 0.5, found.low - 0.5, found.high - 0.5),
            paper=f"{figure - 50:+.1f}",
        )
        for (kind, found), figure in zip(estimates.items(), (paper.STEP_ACCURACY, paper.ANSWER_ACCURACY), strict=True)
    ]
    return Section(
        name="accuracy",
        title="Step and answer accuracy of the PRM",
        text=(
            f"On {chains} held-out chains of {problems} problems, labels by {facts.get('labels', 'exact')!s}; good and "
            "bad tags count the same (the paper does not say how its classes are balanced). "
            f"ECE {ece.value:.3f} ({ece.low:.3f} - {ece.high:.3f}), Brier score {brier:.3f}. "
            f"PRM `{_checkpoint(facts)}`, commit `{facts.get('commit')}`, seed {facts.get('seed')}."
        ),
        tables=(
            Table(
                columns=("tags of", "accuracy", "unbalanced", "bad found", "false alarms", "AUC", "tags", "paper, 38B"),
                rows=tuple(rows),
            ),
        ),
        findings=(
            *chance,
            Finding(
                claim="answers judged better than steps",
                ours=difference,
                paper="+1.4 (38B), +5.4 (InternVL2.5-8B), +1.0 (LLaVA-NeXt), unseen questions",
                otherwise="A step's label here asks for the very derivation, an answer's for the number alone.",
            ),
        ),
        facts={
            **{kind: found.facts() for kind, found in estimates.items()},
            "ece": ece.facts(),
            "brier": brier,
            "chains": chains,
        },
    )


def _estimate(part: Mapping[str, Any], name: str) -> Estimate:
    return Estimate(part[name], part["ci_low"], part["ci_high"])


def _checkpoint(facts: Facts) -> str:
    return str((facts.get("checkpoints") or {}).get("prm"))


BY_PRM = ("best_of_n", "prm_x_likelihood")


def labels_section(labels: Facts | None, judged: Mapping[str, Sequence[Pool]], size: int, seed: int) -> Section:
    """Monte-Carlo against exact labels: how far they agree, and what PRMs trained on either pick from the same chains.

    ``judged`` are pools by the name of the PRM that scored them.
    """
    tables: list[Table] = []
    findings: list[Finding] = []
    facts: Facts = {}
    if labels is not None:
        outcome = labels.get("outcome") or labels
        facts["agreement"] = outcome
        tables.append(
            Table(columns=("stage `label`", "figure"), rows=tuple(_flat(outcome)), caption="What labelling found")
        )
    if judged:
        rule = rules(paper.SCALE)
        shares = {
            name: {by: [block_accuracy(pool, rule[by], size, size) for pool in pools] for by in BY_PRM}
            for name, pools in judged.items()
        }
        rows = [(name, *(cell(mean(found[by], seed)) for by in BY_PRM)) for name, found in shares.items()]
        tables.append(
            Table(
                columns=("PRM", f"best-of-{size}", "PRM x likelihood"),
                rows=tuple(rows),
                caption="PRMs on the same chains",
            )
        )
        names = list(shares)
        findings += [
            Finding(
                claim=f"best-of-{size} by the PRM {first} above that by the PRM {other}",
                ours=paired(shares[first]["best_of_n"], shares[other]["best_of_n"], seed),
                paper="",
            )
            for place, first in enumerate(names)
            for other in names[place + 1 :]
        ]
        facts["best_of_n"] = {name: mean(found["best_of_n"], seed).facts() for name, found in shares.items()}
    return Section(
        name="labels",
        title="Monte-Carlo and exact labels",
        text=(
            "The paper mixes Monte-Carlo labels with a judge's and compares neither to the truth nor one to the other, "
            "so it has no figure to compare these with."
        ),
        tables=tuple(tables),
        findings=tuple(findings),
        facts=facts,
    )


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found += _flat(cast("Mapping[str, Any]", value), f"{prefix}{name}: ")
        elif isinstance(value, (int, float, str)):
            found.append((prefix + name.replace("_", " "), f"{value:.3f}" if isinstance(value, float) else str(value)))
    return found
