"""What can be picked from one pool of chains: selection compared without sampling anew.

N chains a problem are drawn once. For each k the pool is cut into N // k blocks of k chains; every rule picks from each
block, and a problem counts by the share of blocks that were picked right.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from cos.benchmarks.report import markdown_table, percent
from cos.benchmarks.setting import Setting
from cos.checkpoints import LedgerProblem
from cos.evaluation.accuracy import ask, is_right, root_seed
from cos.evaluation.progress import side_by_side
from cos.evaluation.provenance import Facts
from cos.evaluation.statistics import bootstrap_mean, pass_at_k
from cos.evaluation.tree_scores import CONCURRENCY, read_tree
from cos.search.errors import EngineDead, EngineError, InputError, SearchFailed
from cos.search.models import Models
from cos.search.ports import Scorer
from cos.search.run import solve
from cos.search.scale import Aggregation, Scale
from cos.search.select import Ruler, rank, rank_key
from cos.search.types import Candidate, Chain, Path, Question
from cos.search.vote import plain_groups

Rule = Callable[[Sequence[Chain]], str | None]
"""The answer picked from some chains; None when there is none."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The scored chains of one problem. A chain whose requests failed is missing."""

    problem: LedgerProblem
    chains: tuple[Chain, ...]
    tokens: int = 0
    prm_reads: int = 0

    def block(self, start: int, k: int) -> list[Chain]:
        """Chains ``start`` to ``start + k - 1``."""
        return [chain for chain in self.chains if start <= chain.path[0] < start + k]

    @property
    def right(self) -> int:
        """Chains with the right answer."""
        return sum(is_right(chain.answer, self.problem) for chain in self.chains)


def widths(size: int) -> list[int]:
    """1, 2, 4, ... and the pool's own size."""
    return sorted({2**power for power in range(size.bit_length()) if 2**power <= size} | {size})


def rules(scale: Scale) -> dict[str, Rule]:
    """The rules by name, for chains that were scored by a PRM of this scale: its scores under its own aggregation and
    under others, the policy's likelihood, the product of both where scores are probabilities, and the vote."""

    def best(ruler: Ruler) -> Rule:
        return lambda chains: rank(chains, ruler)[0].answer if chains else None

    def by_prm(aggregation: Aggregation) -> Ruler:
        return Ruler("prm", aggregation, scale.step_weight, scale)

    def most_frequent(chains: Sequence[Chain]) -> str | None:
        voted = max(plain_groups(chains), key=len, default=None)
        return None if voted is None else voted[0].answer

    def both(chains: Sequence[Chain]) -> str | None:
        ranked = sorted(chains, key=lambda chain: rank_key(chain, _product(chain, by_prm(scale.aggregation))))
        return ranked[0].answer if ranked else None

    return {
        "best_of_n": best(by_prm(scale.aggregation)),
        "mean": best(by_prm("mean")),
        "min": best(by_prm("min")),
        "product": best(by_prm("prod")),
        "last": best(by_prm("last")),
        "likelihood": best(Ruler("likelihood", scale.aggregation)),
        **({"prm_x_likelihood": both} if scale.is_probability else {}),
        "self_consistency": most_frequent,
    }


def _product(chain: Chain, ruler: Ruler) -> float | None:
    """The logarithm of a chain's PRM score times its likelihood."""
    value, logprob = ruler.value(chain), chain.logprob
    return None if value is None or logprob is None else math.log(max(value, 1e-12)) + logprob


def scale_of(models: Models) -> Scale:
    """What the PRM's scores mean. Errors: InputError without a PRM."""
    if models.scorer is None:
        raise InputError("--pool compares PRM scores with other rules; give --prm", "prm")
    return models.scorer.scale


async def draw_pools(
    models: Models, problems: Sequence[LedgerProblem], setting: Setting, seed: int, concurrency: int
) -> list[Pool]:
    """Draws and scores the chains of a best-of-N setting for each problem.

    Errors: InputError without a PRM; EngineDead.
    """
    scale_of(models)

    async def one(problem: LedgerProblem) -> Pool:
        return await draw_pool(models, problem, setting, seed)

    return await side_by_side(one, problems, concurrency, f"pool of {setting.n}")


async def draw_pool(models: Models, problem: LedgerProblem, setting: Setting, seed: int) -> Pool:
    """The chains of a best-of-N setting for one problem, scored where there is a PRM; none when requests failed.

    Errors: EngineDead.
    """
    # Only this mode has the engine return log-probabilities; the PRM scores are added below.
    spec = replace(setting, score="likelihood").spec(root_seed(seed, problem.id))
    question = ask(problem)
    try:
        result = await solve(question, spec, replace(models, scorer=None))
        scores = {} if models.scorer is None else await score_tree(models.scorer, question, result.tree)
    except EngineDead:
        raise
    except (EngineError, SearchFailed):
        return Pool(problem, ())
    tree = [structs.replace(candidate, score=scores.get(candidate.path)) for candidate in result.tree]
    return Pool(problem, tuple(leaf_chains(tree)), result.usage.tokens_generated, len(scores))


def leaf_chains(tree: Sequence[Candidate]) -> list[Chain]:
    """The whole chains of a tree, in path order."""
    nodes = {candidate.path: candidate for candidate in tree}
    parents = {path[:-1] for path in nodes}
    leaves = sorted(path for path in nodes if path not in parents)
    return [_chain(nodes, leaf) for leaf in leaves]


def _chain(nodes: Mapping[Path, Candidate], path: Path) -> Chain:
    return Chain(tuple(nodes[path[: depth + 1]] for depth in range(len(path))))


async def score_tree(scorer: Scorer, question: Question, tree: Sequence[Candidate]) -> dict[Path, float | None]:
    """A PRM score for every candidate, None where there is none: unreadable text, or a read that failed."""
    nodes = {candidate.path: candidate for candidate in tree}
    return await read_tree(await scorer.open(question), nodes, asyncio.Semaphore(CONCURRENCY)) if nodes else {}


def pool_facts(pools: Sequence[Pool], size: int, scale: Scale, seed: int) -> Facts:
    """pass@k and the accuracy of every rule at every k. ``scale``: the PRM's."""
    return {
        "pool": size,
        "problems": len(pools),
        "aggregation": scale.aggregation,
        "policy_tokens": sum(pool.tokens for pool in pools),
        "prm_reads": sum(pool.prm_reads for pool in pools),
        "rows": [_row(pools, size, k, rules(scale), seed) for k in widths(size)],
    }


def _row(pools: Sequence[Pool], size: int, k: int, every: Mapping[str, Rule], seed: int) -> Facts:
    reached = [pass_at_k(size, pool.right, k) for pool in pools]
    shares = {name: [block_accuracy(pool, rule, size, k) for pool in pools] for name, rule in every.items()}
    return {
        "k": k,
        "pass_at_k": _estimate(reached, seed),
        **{name: _estimate(values, seed) for name, values in shares.items()},
    }


def block_accuracy(pool: Pool, rule: Rule, size: int, k: int) -> float:
    """The share of a pool's blocks of k chains from which a rule picks the right answer."""
    picked = [rule(pool.block(start, k)) for start in range(0, size - k + 1, k)]
    return sum(is_right(answer, pool.problem) for answer in picked) / len(picked)


def _estimate(values: Sequence[float], seed: int) -> Facts:
    interval = bootstrap_mean(values, seed)
    return {"accuracy": sum(values) / len(values), "ci_low": interval.low, "ci_high": interval.high}


def pool_table(facts: Facts) -> str:
    """Accuracies by k, in Markdown."""
    names = [name for name in facts["rows"][0] if name != "k"]
    rows = [(str(row["k"]), *(percent(row[name]["accuracy"]) for name in names)) for row in facts["rows"]]
    return markdown_table(("k", *("pass@k" if name == "pass_at_k" else name for name in names)), rows)
