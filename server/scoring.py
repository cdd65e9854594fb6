"""The way of one request for scores: it waits for its place, has its chains read by the PRM, and is counted."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cos.engines.ports import ComesBack
from cos.search.chain_scores import ScoredChain, check_read, score_chain
from cos.search.errors import EngineDead, InputError
from cos.search.ports import Scorer, ScorerSession
from cos.search.select import Ruler
from cos.search.tasks import together
from cos.search.types import Piece
from cos.server.errors import Draining, EngineStuck, Overloaded, SearchTimeout, fault_of
from cos.server.metrics import Account
from cos.server.service import Service
from cos.server.solving import Undecoded

CHAINS_AT_ONCE = 64
"""Chains of one request that are read side by side."""
QUESTIONS_AT_ONCE = 8
"""Questions of one request that are open side by side. Each holds its decoded pictures until its chains are read."""


@dataclass(frozen=True, slots=True)
class Scorable:
    """One chain of a request."""

    asked: Undecoded
    """Its question. Chains of one question share it."""
    pieces: tuple[Piece, ...]


def pictures_of(chains: Iterable[Scorable]) -> int:
    """How many pictures their questions have together."""
    return sum(len(asked.uploads) for asked in {id(chain.asked): chain.asked for chain in chains}.values())


def scorer_of(service: Service) -> Scorer:
    """The server's PRM. Errors: InputError where it has none."""
    if service.models.scorer is None:
        raise InputError("this server has no PRM to score chains; start it with --prm", "prm")
    return service.models.scorer


async def score(service: Service, chains: Sequence[Scorable], ruler: Ruler, account: Account) -> list[ScoredChain]:
    """The chains with their scores, in order. Cancel it to abort the reads.

    Errors: Overloaded, Draining, SearchTimeout, EngineDead, EngineStuck, EngineError, InputError, BadImage.
    """
    account.outcome, account.pictures = "cancelled", pictures_of(chains)
    try:
        found = await _admitted(service, chains, ruler)
        check_read(found)
    except (InputError, Overloaded, Draining, EngineStuck) as error:
        account.outcome, account.error = "rejected", fault_of(error).code
        raise
    except Exception as error:
        account.outcome, account.error = "failed", fault_of(error).code
        raise
    account.outcome = "partial" if any(one.failures or one.too_long for one in found) else "ok"
    service.metrics.scored(account.strategy, found)
    return found


async def _admitted(service: Service, chains: Sequence[Scorable], ruler: Ruler) -> list[ScoredChain]:
    engine = service.engines.prm or service.engines.policy
    if not engine.is_alive:
        raise engine.loss if isinstance(engine, ComesBack) else EngineDead("the PRM engine has died")
    if "prm" in service.watch.frozen:
        raise EngineStuck("the prm engine makes no progress; try again later")
    seconds = service.settings.timeout_s
    async with service.admission.place(seconds):
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                service.stop.watch(deadline)
                return await _scored(service, chains, ruler)
        except TimeoutError as error:
            if service.stop.is_set:
                raise Draining("the server shut down before the chains were scored") from error
            raise SearchTimeout(
                f"the chains were not scored within {seconds:g} s (--timeout-s); send fewer of them at a time"
            ) from error
        finally:
            service.stop.forget(deadline)


async def _scored(service: Service, chains: Sequence[Scorable], ruler: Ruler) -> list[ScoredChain]:
    """Question by question: each is shown to the PRM once, with its pictures, and forgotten once its chains are
    read."""
    scorer = scorer_of(service)
    questions, room = asyncio.Semaphore(QUESTIONS_AT_ONCE), asyncio.Semaphore(CHAINS_AT_ONCE)
    numbers: dict[int, list[int]] = {}
    for number, chain in enumerate(chains):
        numbers.setdefault(id(chain.asked), []).append(number)

    async def read(session: ScorerSession, number: int) -> ScoredChain:
        async with room:
            return await score_chain(session, chains[number].pieces, ruler.scale, number=number)

    async def answered(own: Sequence[int]) -> list[ScoredChain]:
        undecoded = chains[own[0]].asked
        async with questions:
            pictures = [await service.decode(upload) for upload in undecoded.uploads]
            session = await scorer.open(undecoded.asked.question(pictures))
            return await together(read(session, number) for number in own)

    found: dict[int, ScoredChain] = {}
    for own, scored in zip(numbers.values(), await together(map(answered, numbers.values())), strict=True):
        found |= zip(own, scored, strict=True)
    return [found[number] for number in range(len(chains))]
