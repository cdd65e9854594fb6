"""Policies compared: SFT and its rounds of DPO, rewards that chose the pairs, lengths of chains."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cos.benchmarks.pool import Pool
from cos.benchmarks.reproduce import paper
from cos.benchmarks.reproduce.findings import Estimate, Finding, Section, Table, cell, mean, paired
from cos.evaluation.accuracy import Record, is_right

REWARDS = {
    "prm": "PRM, steps and answer",
    "answer": "PRM, answer only",
    "outcome": "outcome (gold answer)",
}
"""What chooses pairs, by the names that ``--rewards`` takes."""


@dataclass(frozen=True)
class PolicyResult:
    """A policy's answers to all problems, greedy and sampled."""

    name: str
    fingerprint: str
    greedy: Sequence[float]
    sampled: Sequence[float]
    """Each problem's share of samples that are right."""
    steps: Sequence[float]
    """Each problem's mean number of steps over its answered samples; NaN without one."""


def policy_result(
    name: str, fingerprint: str, greedy: Sequence[Record], samples: Sequence[Pool], size: int
) -> PolicyResult:
    """A policy's measurements, put together; ``size`` samples were asked for each problem."""
    return PolicyResult(
        name,
        fingerprint,
        [float(record.is_right) for record in greedy],
        [sum(is_right(chain.answer, pool.problem) for chain in pool.chains) / size for pool in samples],
        [_mean_steps(pool) for pool in samples],
    )


def _mean_steps(pool: Pool) -> float:
    lengths = [len(chain.steps) for chain in pool.chains if chain.is_answered]
    return sum(lengths) / len(lengths) if lengths else math.nan


def _table(policies: Sequence[PolicyResult], base: PolicyResult, seed: int) -> Table:
    rows: list[tuple[str, ...]] = []
    for policy in policies:
        ahead = [
            "-" if policy is base else Finding(claim="", ours=paired(mine, other, seed), paper="").shown
            for mine, other in ((policy.greedy, base.greedy), (policy.sampled, base.sampled))
        ]
        greedy, sampled = cell(mean(policy.greedy, seed)), cell(mean(policy.sampled, seed))
        rows.append((policy.name, f"`{policy.fingerprint}`", greedy, sampled, *ahead))
    columns = ("policy", "weights", "greedy", "one sample", f"greedy over {base.name}", f"sample over {base.name}")
    return Table(columns=columns, rows=tuple(rows))


def _facts(policies: Sequence[PolicyResult], seed: int) -> dict[str, object]:
    return {
        policy.name: {
            "checkpoint": policy.fingerprint,
            "greedy": mean(policy.greedy, seed).facts(),
            "one_sample": mean(policy.sampled, seed).facts(),
            "steps": steps_of(policy, seed).facts(),
        }
        for policy in policies
    }


def rounds_section(rounds: Sequence[PolicyResult], seed: int) -> Section:
    """SFT against the rounds of DPO; ``rounds`` begins with SFT."""
    first, last = rounds[0], rounds[-1]
    unlike = "The paper trains on some 20,000 pairs a round; ours are named in the recipe."
    return Section(
        name="rounds",
        title="SFT and rounds of DPO",
        text="Differences in percentage points, paired by problem.",
        tables=(_table(rounds, first, seed),),
        findings=(
            Finding(
                claim=f"{last.name} above {first.name}, greedy",
                ours=paired(last.greedy, first.greedy, seed),
                paper="+3.4 (LLaVA-NeXt), +2.4 (InternVL2.5), means of six sets",
                otherwise=unlike,
            ),
            Finding(
                claim=f"{last.name} above {first.name}, one sample",
                ours=paired(last.sampled, first.sampled, seed),
                paper="",
            ),
        ),
        plot="rounds.png",
        facts={"policies": _facts(rounds, seed)},
    )


def rewards_section(base: PolicyResult, rewards: Mapping[str, PolicyResult], seed: int) -> Section:
    """Policies trained on pairs by one reward against those by another (the paper's table 2)."""
    findings: list[Finding] = []
    unlike = "The paper's figures are after three rounds, these after one."
    for name, policy in rewards.items():
        findings.append(
            Finding(
                claim=f"pairs by {REWARDS[name]} above {base.name}, greedy",
                ours=paired(policy.greedy, base.greedy, seed),
                paper=paper.reward_gap(name, "sft"),
                otherwise=unlike,
            )
        )
    for baseline in ("answer", "outcome"):
        if "prm" in rewards and baseline in rewards:
            findings += [
                Finding(
                    claim=f"pairs by PRM above pairs by {REWARDS[baseline]}, {kind}",
                    ours=paired(mine, other, seed),
                    paper=figure,
                    otherwise=unlike,
                )
                for kind, mine, other, figure in (
                    ("greedy", rewards["prm"].greedy, rewards[baseline].greedy, paper.reward_gap("prm", baseline)),
                    ("one sample", rewards["prm"].sampled, rewards[baseline].sampled, ""),
                )
            ]
    policies = [base, *rewards.values()]
    return Section(
        name="rewards",
        title="What chooses the pairs",
        text="One round of DPO from the same SFT policy on pairs chosen by each reward.",
        tables=(
            _table(policies, base, seed),
            Table(
                columns=("pairs chosen by", "MathVista", "MMStar", "M3CoT"),
                rows=tuple((name, *(f"{value:.1f}" for value in row)) for name, row in paper.REWARDS.items()),
                caption="The paper's table 2, %",
            ),
        ),
        findings=tuple(findings),
        plot="rewards.png",
        facts={"policies": _facts(policies, seed)},
    )


def steps_of(policy: PolicyResult, seed: int) -> Estimate:
    """Mean steps a chain."""
    known = [steps for steps in policy.steps if not math.isnan(steps)]
    return mean(known, seed) if known else Estimate(0.0, 0.0, 0.0)


def steps_section(rounds: Sequence[PolicyResult], outcome: PolicyResult | None, seed: int) -> Section:
    """Mean steps a chain, round by round (the paper's figure 6)."""
    first = rounds[0]
    rows = [
        (
            policy.name,
            _steps_cell(steps_of(policy, seed)),
            f"{paper.STEPS_PRM[number]:.2f}" if number < len(paper.STEPS_PRM) else "-",
        )
        for number, policy in enumerate(rounds)
    ]
    unlike = (
        "A ledger's derivation has as many steps as its rows and columns ask for: a chain can only be shorter by "
        "leaving out what it needs."
    )
    number = min(len(rounds), len(paper.STEPS_PRM)) - 1
    findings = [
        Finding(
            claim=f"steps a chain, {rounds[-1].name} against {first.name}",
            ours=_longer(rounds[-1], first, seed),
            paper=f"{paper.STEPS_PRM[number] - paper.STEPS_PRM[0]:+.2f} steps",
            paper_sign=-1,
            otherwise=unlike,
            unit="steps",
        )
    ]
    if outcome is not None:
        rows.append(("one round on pairs by outcome", _steps_cell(steps_of(outcome, seed)), "6.29"))
        findings.append(
            Finding(
                claim=f"steps a chain, one round on pairs by outcome against {first.name}",
                ours=_longer(outcome, first, seed),
                paper=f"{paper.STEPS_OUTCOME[1] - paper.STEPS_OUTCOME[0]:+.2f} steps",
                otherwise=unlike,
                unit="steps",
            )
        )
    return Section(
        name="steps",
        title="Steps a chain",
        text="Over sampled chains that have an answer; the answer is no step.",
        tables=(Table(columns=("policy", "ours", "paper"), rows=tuple(rows)),),
        findings=tuple(findings),
        plot="steps.png",
        facts={policy.name: steps_of(policy, seed).facts() for policy in rounds},
    )


def _longer(policy: PolicyResult, base: PolicyResult, seed: int) -> Estimate:
    pairs = [
        (mine, other)
        for mine, other in zip(policy.steps, base.steps, strict=True)
        if not math.isnan(mine) and not math.isnan(other)
    ]
    if not pairs:
        return Estimate(0.0, 0.0, 0.0)
    return paired([mine for mine, _ in pairs], [other for _, other in pairs], seed)


def _steps_cell(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f} - {estimate.high:.2f})"
