"""Search: accuracy over the number of chains (the paper's figure 5), and over the step weight (its figure 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cos.benchmarks.pool import Pool, Rule, block_accuracy, rules
from cos.benchmarks.reproduce import paper
from cos.benchmarks.reproduce.findings import Estimate, Finding, Section, Table, cell, mean, paired
from cos.evaluation.statistics import pass_at_k
from cos.search.select import Ruler, rank
from cos.search.types import Chain

CURVES = {
    "pass_at_k": "pass@N",
    "beam": "beam",
    "best_of_n": "best-of-N (PRM)",
    "prm_x_likelihood": "best-of-N (PRM x likelihood)",
    "likelihood": "best-of-N (likelihood)",
    "self_consistency": "self-consistency",
}
"""Ways to use N chains, as the report calls them."""
RANKED = ("best_of_n", "prm_x_likelihood", "likelihood", "self_consistency")

Shares = Mapping[int, Sequence[float]]
"""For each width every problem's share of right answers."""


@dataclass(frozen=True)
class Scaling:
    """What figure 5 needs."""

    curves: Mapping[str, Shares]
    """By name of `CURVES`."""
    greedy: Sequence[float]
    seed: int
    tokens: int = 0
    """Generated for the pools."""
    prm_reads: int = 0

    def at(self, curve: str, width: int) -> Sequence[float]:
        """Shares of one point."""
        return self.curves[curve][width]

    def has(self, curve: str, width: int) -> bool:
        """Whether a point was measured."""
        return width in self.curves.get(curve, {})

    def estimates(self) -> dict[str, dict[int, Estimate]]:
        """Accuracy and interval of every point."""
        return {
            name: {width: mean(shares, self.seed) for width, shares in curve.items()}
            for name, curve in self.curves.items()
        }


def scaling_of(
    drawn: Sequence[Pool], size: int, greedy: Sequence[float], beams: Mapping[int, Sequence[float]], seed: int
) -> Scaling:
    """All points from pools of ``size`` chains a problem, and from beam searches."""
    widths = [width for width in paper.WIDTHS if width <= size]
    every = rules(paper.SCALE)
    curves: dict[str, Shares] = {
        "pass_at_k": {width: [pass_at_k(size, pool.right, width) for pool in drawn] for width in widths},
        **{
            name: {width: [block_accuracy(pool, every[name], size, width) for pool in drawn] for width in widths}
            for name in RANKED
        },
    }
    if beams:
        # A beam of one candidate is one sample.
        curves["beam"] = {1: curves["pass_at_k"][1], **beams}
    return Scaling(
        {name: curves[name] for name in CURVES if name in curves},
        greedy,
        seed,
        sum(pool.tokens for pool in drawn),
        sum(pool.prm_reads for pool in drawn),
    )


def scaling_section(scaling: Scaling, size: int) -> Section:
    """Figure 5 and what follows from it."""
    estimates = scaling.estimates()
    widths = [width for width in paper.WIDTHS if width <= size]
    greedy = mean(scaling.greedy, scaling.seed)
    rows = [
        (
            str(width),
            *(cell(estimates[name].get(width)) for name in estimates),
        )
        for width in widths
    ]
    theirs = [
        (str(width), *(f"{paper.M3COT[name][i]:.1f} / {paper.MMSTAR[name][i]:.1f}" for name in paper.M3COT))
        for i, width in enumerate(paper.WIDTHS)
    ]
    return Section(
        name="scaling",
        title="Accuracy over the number of chains",
        text=(
            f"Greedy answers {cell(greedy)} right. Best-of-N, self-consistency and likelihood pick from one pool of "
            f"{size} chains a problem ({scaling.tokens:,} tokens, {scaling.prm_reads:,} PRM reads), cut into blocks of "
            "N; beam searches are searches of their own, N candidates a level, a quarter of them kept (the paper keeps "
            "one)."
        ),
        tables=(
            Table(columns=("N", *(CURVES[name] for name in estimates)), rows=tuple(rows), caption="Ours"),
            Table(
                columns=("N", *(CURVES[name] for name in paper.M3COT)),
                rows=tuple(theirs),
                caption="The paper's figure 5, M3CoT / MMStar, %",
            ),
        ),
        findings=tuple(_scaling_findings(scaling)),
        plot="scaling.png",
        facts={
            "greedy": greedy.facts(),
            "policy_tokens": scaling.tokens,
            "prm_reads": scaling.prm_reads,
            "curves": {
                name: {str(width): estimate.facts() for width, estimate in curve.items()}
                for name, curve in estimates.items()
            },
        },
    )


GUESSING = "Its questions are multiple choice, where chains agree by guessing; a ledger's answer is a number."
SIGHT = "A PRM that sees little better than its policy overrates the policy's own misreadings: see its accuracy."
NOISE = "Selecting over noisy scores overestimates more as the pool grows (arXiv 2603.15377)."
ALIKE = "Candidates of one good prefix are alike (its appendix E); arXiv 2509.23250 finds best-of-N ahead as well."


def _scaling_findings(scaling: Scaling) -> list[Finding]:
    def finding(claim: str, ours: Sequence[float], baseline: Sequence[float], figure: str, why: str) -> Finding:
        return Finding(claim=claim, ours=paired(ours, baseline, scaling.seed), paper=figure, otherwise=why)

    found: list[Finding] = []
    if scaling.has("best_of_n", 8):
        best, vote = scaling.at("best_of_n", 8), scaling.at("self_consistency", 8)
        one = scaling.at("pass_at_k", 1)
        found += [
            finding("best-of-8 above greedy", best, scaling.greedy, paper.gained("best_of_n", 8, 1), SIGHT),
            finding("best-of-8 above one sample", best, one, "", ""),
            finding(
                "best-of-8 above self-consistency at 8",
                best,
                vote,
                paper.ahead("best_of_n", "self_consistency", 8),
                SIGHT,
            ),
            finding("best-of-8 by the PRM above by likelihood", best, scaling.at("likelihood", 8), "", ""),
            finding("PRM x likelihood above the PRM at 8", scaling.at("prm_x_likelihood", 8), best, "", ""),
            finding(
                "self-consistency at 8 above one sample",
                vote,
                one,
                "+3.3 (M3CoT; -1.9 on MMStar, against greedy)",
                GUESSING,
            ),
            finding(
                "pass@8 above best-of-8",
                scaling.at("pass_at_k", 8),
                best,
                paper.ahead("pass_at_k", "best_of_n", 8),
                "",
            ),
        ]
    for width in paper.WIDTHS[1:]:
        if scaling.has("beam", width):
            figure = paper.ahead("beam", "best_of_n", width)
            pair = scaling.at("beam", width), scaling.at("best_of_n", width)
            found.append(finding(f"beam above best-of-N at {width}", *pair, figure, ALIKE))
    for name, label in (("best_of_n", "best-of-32 above best-of-8"), ("beam", "beam at 32 above beam at 8")):
        if scaling.has(name, 32) and scaling.has(name, 8):
            pair = scaling.at(name, 32), scaling.at(name, 8)
            found.append(finding(label, *pair, paper.gained(name, 32, 8), NOISE))
    return found


TENTHS = tuple(tenth / 10 for tenth in range(11))


def weight_shares(drawn: Sequence[Pool], size: int, width: int) -> dict[float, list[float]]:
    """For every step weight each problem's share of right answers, best of ``width``."""

    def rule(weight: float) -> Rule:
        ruler = Ruler("prm", paper.SCALE.aggregation, weight, paper.SCALE)

        def best(chains: Sequence[Chain]) -> str | None:
            return rank(chains, ruler)[0].answer if chains else None

        return best

    return {weight: [block_accuracy(pool, rule(weight), size, width) for pool in drawn] for weight in TENTHS}


def weights_section(shares: Mapping[float, Sequence[float]], width: int, seed: int) -> Section:
    """Figure 3."""
    estimates = {weight: mean(values, seed) for weight, values in shares.items()}
    default, best = shares[paper.SCALE.step_weight], max(estimates, key=lambda weight: estimates[weight].value)
    rows = [
        (f"{weight:.1f}", cell(estimates[weight]), f"{theirs:.1f}")
        for weight, theirs in zip(TENTHS, paper.STEP_WEIGHTS, strict=True)
    ]
    gap = "A ledger's chain has one false step or more whenever its answer is false: both scores say much the same."
    return Section(
        name="weights",
        title=f"Step weight, best of {width}",
        text=(
            f"A chain's score is w x mean of its steps' scores + (1 - w) x its answer's. Best here: w = {best:.1f}, "
            "chosen on the problems it is shown for, as the paper's w = 0.2 was. Every w picks from the same chains."
        ),
        tables=(Table(columns=("w", "ours", "paper, M3CoT, %"), rows=tuple(rows)),),
        findings=(
            Finding(
                claim="w = 0.2 above the answer alone (w = 0)",
                ours=paired(default, shares[0.0], seed),
                paper="+1.3",
                otherwise=gap,
            ),
            Finding(
                claim="w = 0.2 above the steps alone (w = 1)",
                ours=paired(default, shares[1.0], seed),
                paper="+7.9",
                otherwise=gap,
            ),
        ),
        plot="weights.png",
        facts={
            "width": width,
            "best": best,
            "curve": {f"{weight:.1f}": estimate.facts() for weight, estimate in estimates.items()},
        },
    )
