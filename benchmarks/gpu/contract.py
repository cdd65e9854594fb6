"""Whether widened models search as the small ones do: every strategy on the same ledgers with the same seeds."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from cos.benchmarks.setting import Setting
from cos.checkpoints import LedgerProblem
from cos.evaluation.accuracy import ask, is_right, root_seed
from cos.evaluation.provenance import Facts
from cos.search.models import Models
from cos.search.run import solve
from cos.search.strategies import menu
from cos.search.tasks import together
from cos.search.types import Path, Prefix

N = 4
"""Chains of a search, or candidates of a level."""


COMPARED = ("same_trees", "same_answers", "unlike", "largest_score_gap", "scores_missing", "reference_accuracy")
"""What is None where there is nothing to compare with."""


@dataclass(frozen=True, slots=True)
class Tree:
    """What a search wrote, and what became of it."""

    written: Mapping[Path, Prefix]
    scores: Mapping[Path, float | None]
    answer: str | None
    is_right: bool

    def gap(self, other: "Tree") -> float:
        """The largest difference of two scores of the same candidate; infinite where only one has a score."""
        pairs = [(score, other.scores[path]) for path, score in self.scores.items()]
        if any((one is None) != (another is None) for one, another in pairs):
            return float("inf")
        return max((abs(one - another) for one, another in pairs if one is not None and another is not None), default=0)


Trees = Mapping[tuple[str, str], Tree]
"""By strategy and problem."""


async def trees_of(
    models: Models,
    problems: Sequence[LedgerProblem],
    seed: int,
    at_once: int,
    strategies: Sequence[str] | None = None,
) -> Trees:
    """Searches all problems, so many at once, by every strategy or by these alone.

    Errors: as `cos.search.run.solve`.
    """
    gate = asyncio.Semaphore(at_once)
    wanted = [(strategy, problem) for problem in problems for strategy in strategies or menu()]
    with tqdm(total=len(wanted), desc="contract", unit="search") as bar:

        async def one(strategy: str, problem: LedgerProblem) -> tuple[tuple[str, str], Tree]:
            async with gate:
                spec = Setting(strategy=strategy, n=N).fitted().spec(root_seed(seed, problem.id))
                found = await solve(ask(problem), spec, models)
            bar.update()
            tree = Tree(
                {candidate.path: candidate.written for candidate in found.tree},
                {candidate.path: candidate.score for candidate in found.tree},
                found.chain.answer,
                is_right(found.chain.answer, problem),
            )
            return (strategy, problem.id), tree

        return dict(await together(one(strategy, problem) for strategy, problem in wanted))


def contract_facts(trees: Trees, reference: Trees | None) -> Facts:
    """How the trees of a pair compare with those of the pair that it is widened from; None where that one was not
    searched, or is this one. Scores are compared in trees that are the same."""
    facts: Facts = {"searches": len(trees), "accuracy": _accuracy(trees), **dict.fromkeys(COMPARED)}
    if reference is None:
        return facts
    same = [name for name, tree in trees.items() if tree.written == reference[name].written]
    gaps = [trees[name].gap(reference[name]) for name in same]
    finite = [gap for gap in gaps if gap < float("inf")]
    return {
        **facts,
        "same_trees": len(same),
        "same_answers": sum(tree.answer == reference[name].answer for name, tree in trees.items()),
        "unlike": [" ".join(name) for name in trees if name not in {*same}],
        "largest_score_gap": max(finite, default=None),
        "scores_missing": len(gaps) - len(finite),
        "reference_accuracy": _accuracy(reference),
    }


def _accuracy(trees: Trees) -> float:
    return sum(tree.is_right for tree in trees.values()) / len(trees)
