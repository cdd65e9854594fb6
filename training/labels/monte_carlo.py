"""Labels by Monte Carlo: from each step a policy writes N continuations to their end; the share that ends right is the
step's soft label.

Source: Math-Shepherd (arXiv 2312.08935) as the CoS paper uses it (section 3.3: N = 16, temperature 1.0, top-p 0.95).
The hard label is good when the share is above a threshold; 0, any right continuation, by default. The answer
leaves nothing to continue: it is good when it is right. Chains that share their first steps share the continuations.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from cos.evaluation.sampling import ChainSampler
from cos.search.ports import PolicySession
from cos.search.tasks import together
from cos.training.data.pieces import Steps, pieces_of
from cos.training.data.questions import is_right, question_of
from cos.training.data.rows import BAD, GOOD, ChainRow, TagLabel


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuing:
    """How steps are labelled."""

    continuations: int = 16
    """N, of each step."""
    hard_above: float = 0.0
    """A step's hard label is good when more than this share ends right."""
    stop_at_zero: bool = True
    """Of a chain that ends wrong, draw nothing more once a step's share is 0: later steps are labelled 0 as well."""


@dataclass(slots=True)
class Spent:
    """What one problem's labels took."""

    prefixes: int = 0
    """Distinct beginnings that were continued."""
    shared: int = 0
    """Beginnings that another chain had continued already."""
    not_continued: int = 0
    """Steps labelled 0 because an earlier one was."""
    continuations: int = 0
    tokens: int = 0


@dataclass(slots=True)
class Problem:
    """The chains of one problem under way: continuations by what they continue."""

    name: str
    session: PolicySession
    spent: Spent = field(default_factory=Spent)
    shares: dict[Steps, "asyncio.Future[float | None]"] = field(
        default_factory=dict[Steps, "asyncio.Future[float | None]"]
    )


async def monte_carlo_labels(
    sampler: ChainSampler, chains: Sequence[ChainRow], how: Continuing
) -> tuple[dict[str, tuple[TagLabel, ...]], Spent]:
    """Labels of one problem's chains by their ids, and what they took. A chain one of whose steps could not be
    continued at all, because every request failed, has none.

    Errors: InputError when picture or question cannot be used, EngineDead.
    """
    asked = chains[0].problem
    under_way = Problem(asked.id, await sampler.open(await question_of(asked)))
    found = await together(_of_chain(sampler, under_way, chain, how) for chain in chains)
    labels = {chain.id: labels for chain, labels in zip(chains, found, strict=True) if labels is not None}
    return labels, under_way.spent


async def _of_chain(
    sampler: ChainSampler, problem: Problem, chain: ChainRow, how: Continuing
) -> tuple[TagLabel, ...] | None:
    right = is_right(chain.answer, chain.problem)
    labels: list[TagLabel] = []
    for count in range(1, len(chain.steps) + 1):
        if how.stop_at_zero and not right and labels and labels[-1].soft == 0:
            problem.spent.not_continued += len(chain.steps) + 1 - count
            labels += [BAD] * (len(chain.steps) + 1 - count)
            break
        share = await _share(sampler, problem, chain, count, how.continuations)
        if share is None:
            return None
        labels.append(TagLabel(share, share > how.hard_above))
    return (*labels, GOOD if right else BAD)


async def _share(sampler: ChainSampler, problem: Problem, chain: ChainRow, count: int, n: int) -> float | None:
    """The share of right continuations of a chain's first ``count`` steps; whoever comes first draws them."""
    steps = chain.steps[:count]
    known = problem.shares.get(steps)
    if known is not None:
        problem.spent.shared += 1
        return await asyncio.shield(known)
    result = problem.shares[steps] = asyncio.get_running_loop().create_future()
    try:
        found = await sampler.write(problem.session, problem.name, n, pieces_of(steps))
    except BaseException:
        # Whoever waits for it is cancelled together with this one.
        result.cancel()
        raise
    right = sum(is_right(one.answer and one.answer.text, chain.problem) for one in found)
    problem.spent.prefixes += 1
    problem.spent.continuations += len(found)
    problem.spent.tokens += sum(one.tokens for one in found)
    result.set_result(right / len(found) if found else None)
    return result.result()
