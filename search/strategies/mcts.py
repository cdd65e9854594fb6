"""Monte Carlo tree search over steps, with PRM values in place of playouts.

Source: PUCT as in Silver et al., "Mastering the game of Go without human knowledge" (2017), methods; steps as actions
and a process reward as the value as in Zhang et al., ReST-MCTS* (arXiv 2406.03816). An iteration goes down from the
root to a chain without children by Q + c P sqrt(N) / (1 + n), where all children of a chain have the same prior P;
gives it n children, which are scored side by side; and carries the best of their values up.

Deviations: values are chain scores so far, not playouts. Q is the mean of the values carried up through a chain, or its
own value before that. A chain that has ended is never visited again. If no chain has answered after the last iteration,
the best one is finished.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from cos.search.search import Search
from cos.search.strategies.base import MAX_WIDTH, Params, Strategy
from cos.search.types import Chain


class MctsParams(Params):
    """Parameters of Monte Carlo tree search."""

    n: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = 4
    """Children of a chain."""
    iterations: Annotated[int, Field(ge=1, le=1024)] = 16
    """Chains that are given children: at most n x iterations candidates."""
    exploration: Annotated[float, Field(ge=0, le=10)] = 1.0
    """How strongly rarely visited chains are preferred (c of PUCT)."""


@dataclass(slots=True)
class Node:
    """A chain and what was found below it."""

    chain: Chain
    value: float
    parent: "Node | None" = None
    children: list["Node"] = field(default_factory=list["Node"])
    visits: int = 0
    total: float = 0.0
    closed: bool = False
    """Whether all below it has ended."""

    @property
    def mean(self) -> float:
        """What was carried up through it, on average; its own value before that."""
        return self.total / self.visits if self.visits else self.value


class Mcts(Strategy):
    """PUCT over steps with PRM values."""

    name = "mcts"
    aliases = ("puct",)
    params = MctsParams
    needs_scores = True

    async def run(self, search: Search, params: MctsParams) -> Chain:
        root, ended = Node(search.root, 0.0), list[Chain]()
        for _ in range(params.iterations):
            if root.closed:
                break
            leaf = descend(root, params.exploration)
            level = search.distinct(await search.expand([(leaf.chain, params.n)]))
            leaf.children = [
                Node(chain, search.confidence(chain) or 0.0, leaf, closed=chain.is_last) for chain in level
            ]
            ended += [chain for chain in level if chain.is_last]
            carry_up(leaf)
        if not any(chain.is_answered for chain in ended) and not root.closed:
            ended += await search.finish([descend(root, 0.0).chain], scored=True)
        ranked = search.rank(ended)
        search.select(ranked[:1], ranked)
        return ranked[0]


def child_of(parent: Node, chain: Chain, value: float | None) -> Node:
    """A chain that was not visited yet. An unscored one is tried last."""
    return Node(chain, 0.0 if value is None else value, parent, closed=chain.is_last)


def descend(root: Node, exploration: float) -> Node:
    """The chain without children that PUCT leads to; of equal ones the first."""
    node = root
    while node.children:
        breadth = exploration * math.sqrt(node.visits) / len(node.children)
        among = [child for child in node.children if not child.closed]
        node = max(among, key=lambda child: child.mean + breadth / (1 + child.visits))
    return node


def carry_up(leaf: Node) -> None:
    """Counts a visit on the way back to the root, with the best value that was found below."""
    best = max(child.value for child in leaf.children)
    node: Node | None = leaf
    while node is not None:
        node.visits += 1
        node.total += best
        node.closed = all(child.closed for child in node.children)
        node = node.parent
