"""Particle filtering: n chains grow step by step; after each step they are drawn again by the odds of their scores.

Source: Puri et al., arXiv 2502.01618, algorithm 1: the weight of a particle is the softmax of its reward's logit, which
for a probability p is its odds p / (1 - p); resampling is multinomial; ended particles take part. Deviations: chance
follows from the search's seed, and the particle with the best chain score wins.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from cos.search.search import Search
from cos.search.strategies.base import MAX_WIDTH, Params, Strategy
from cos.search.types import Chain

CERTAIN = 1 - 1e-6
"""Odds are taken of nothing surer than this."""


class ParticleParams(Params):
    """Parameters of particle filtering."""

    n: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = 8
    """Particles."""


class Particle(Strategy):
    """Chains that multiply or die by their scores."""

    name = "particle"
    aliases = ("particle_filtering",)
    params = ParticleParams
    needs_scores = True

    async def run(self, search: Search, params: ParticleParams) -> Chain:
        particles, step = [search.root] * params.n, 0
        while wanted := counted(particles):
            ended, step = [chain for chain in particles if chain.is_last], step + 1
            grown = await search.expand(wanted)
            particles = resample(search, [*ended, *grown], params.n, step)
            search.select(particles, [*ended, *grown])
        return search.rank(particles)[0]


def counted(particles: Sequence[Chain]) -> list[tuple[Chain, int]]:
    """The chains that go on, each with its number of particles, in path order."""
    numbers: dict[tuple[int, ...], int] = {}
    chains: dict[tuple[int, ...], Chain] = {}
    for chain in particles:
        if not chain.is_last:
            chains[chain.path] = chain
            numbers[chain.path] = numbers.get(chain.path, 0) + 1
    return [(chains[path], numbers[path]) for path in sorted(chains)]


def resample(search: Search, particles: Sequence[Chain], n: int, step: int) -> list[Chain]:
    """n particles drawn by weight; all weigh the same where none has a score."""
    chains = sorted(particles, key=lambda chain: chain.path)
    weights = [odds(search.confidence(chain)) for chain in chains]
    return search.random(f"particles {step}").choices(chains, weights if any(weights) else None, k=n)


def odds(p: float | None) -> float:
    """p / (1 - p); 0 where there is none."""
    return 0.0 if p is None else max(p, 0.0) / (1 - min(p, CERTAIN))
