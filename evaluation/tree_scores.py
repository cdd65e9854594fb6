"""A PRM's scores of a tree of candidates that are written already.

What two chains begin with alike is read once, and a step is read when the one before it has been: the engine's prefix
cache holds all but its own tokens.
"""

import asyncio
from collections.abc import Mapping

from cos.search.errors import EngineDead, EngineError
from cos.search.ports import ScorerSession
from cos.search.tasks import together
from cos.search.types import Candidate, Chain, Path

ATTEMPTS = 2
"""Tries for one read."""
CONCURRENCY = 96
"""Reads at once by default."""


async def read_tree(
    session: ScorerSession,
    nodes: Mapping[Path, Candidate],
    gate: asyncio.Semaphore,
    failed: list[str] | None = None,
) -> dict[Path, float | None]:
    """P(good) of every candidate of a tree; None for unreadable text, and where a read failed twice or was not finite.

    ``gate``: reads at once. ``failed``: gets why each that could be read has no score. Errors: EngineDead.
    """
    reasons = [] if failed is None else failed
    children: dict[Path, list[Path]] = {}
    for path in nodes:
        children.setdefault(path[:-1], []).append(path)
    scores: dict[Path, float | None] = {}

    async def read(path: Path) -> None:
        chain = Chain(tuple(nodes[path[:depth]] for depth in range(1, len(path) + 1)))
        async with gate:
            scores[path] = await _score(session, chain, reasons)
        if children.get(path):
            await together(read(child) for child in children[path])

    # The first step goes ahead: it brings prompt and picture into the cache for all others.
    for some in (children[()][:1], children[()][1:]):
        if some:
            await together(read(path) for path in some)
    return scores


async def _score(session: ScorerSession, chain: Chain, failed: list[str]) -> float | None:
    if chain.candidates[-1].end in ("broken", "truncated"):
        return None
    why = ""
    for _ in range(ATTEMPTS):
        try:
            score = (await session.score(chain)).score
        except EngineDead:
            raise
        except EngineError as error:
            why = str(error)
            continue
        if score is None:
            failed.append("the PRM gave no score")
        return score
    failed.append(why)
    return None
