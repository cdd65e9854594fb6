"""A PRM's scores of one chain that is written already."""

from collections.abc import Sequence
from dataclasses import dataclass

from cos.search.errors import ChainTooLong, EngineDead, EngineError, InputError
from cos.search.ports import Reading, ScorerSession
from cos.search.scale import Scale
from cos.search.select import finite
from cos.search.tasks import forget_frames
from cos.search.types import Candidate, Chain, Piece

ATTEMPTS = 2
"""Tries for one read."""


@dataclass(frozen=True, slots=True)
class ScoredChain:
    """A chain whose candidates have their scores, and what that cost."""

    chain: Chain
    prm_reads: int
    prm_prompt_tokens: int
    """Prompt tokens over all reads, cached ones included."""
    prm_cached_tokens: int
    prm_tokens_generated: int
    """What the PRM wrote."""
    failures: tuple[str, ...]
    """Why reads failed twice; their candidates are unscored."""
    too_long: int
    """Candidates that were not read, as the PRM's context has no room for the chain up to them."""
    beyond: int
    """Finite numbers that were not on the PRM's scale, and so no scores."""


async def score_chain(session: ScorerSession, pieces: Sequence[Piece], scale: Scale, *, number: int = 0) -> ScoredChain:
    """Scores the steps and the answer that ``pieces`` are, in order: each read has the one before it in the engine's
    prefix cache. A PRM that judges whole answers reads the answer alone.

    Behind a candidate that the PRM's context has no room for none is read: those have even less. ``number``: tells the
    chains of one session apart; formats know a candidate by its path. Errors: EngineDead.
    """
    chain = Chain()
    readings: list[Reading] = []
    failures: list[str] = []
    too_long = beyond = 0
    for depth, piece in enumerate(pieces, 1):
        end = "answer" if piece.kind == "answer" else "step"
        newest = Candidate(path=(number, *(0,) * (depth - 1)), written=piece.text, tokens=0, piece=piece, end=end)
        chain = chain.then(newest)
        if scale.judges == "answers" and end != "answer":
            continue
        try:
            reading = None if too_long else await _read(session, chain, failures)
        except ChainTooLong as error:
            forget_frames(error)
            reading, too_long = None, 1
        else:
            too_long += too_long > 0
        if reading is not None:
            readings.append(reading)
            newest.score = scale.usable(reading.score)
            beyond += newest.score is None and finite(reading.score) is not None
    return ScoredChain(
        chain,
        prm_reads=len(readings),
        prm_prompt_tokens=sum(reading.prompt_tokens for reading in readings),
        prm_cached_tokens=sum(reading.cached_tokens for reading in readings),
        prm_tokens_generated=sum(reading.tokens for reading in readings),
        failures=tuple(failures),
        too_long=too_long,
        beyond=beyond,
    )


def check_read(found: Sequence[ScoredChain]) -> None:
    """Errors: EngineError or InputError where nothing at all was read of these chains, though something was to be."""
    if any(one.prm_reads for one in found):
        return
    if failures := [reason for one in found for reason in one.failures]:
        raise EngineError(failures[0])
    if any(one.too_long for one in found):
        raise InputError(
            "every chain is longer than the PRM's context has room for, from its first step on; send shorter steps",
            "steps",
        )


async def _read(session: ScorerSession, chain: Chain, failures: list[str]) -> Reading | None:
    reason = ""
    for _ in range(ATTEMPTS):
        try:
            return await session.score(chain)
        except (EngineDead, ChainTooLong):
            raise
        except EngineError as error:
            reason = str(error)
    failures.append(reason)
    return None
