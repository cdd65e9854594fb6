"""POST /v1/score and /v1/rerank: chains that are written already in, the PRM's scores of their steps out.

For evaluation kits, and for trainers that need a reward.
"""

import asyncio
import json
from typing import Any, Literal

from fastapi import APIRouter, Request

from cos.search.chain_scores import ScoredChain
from cos.search.errors import InputError
from cos.search.select import Ruler
from cos.search.types import Piece
from cos.server.bodies import read_json
from cos.server.race import unless_gone
from cos.server.routes.context import ERRORS, TheAccount, TheService
from cos.server.scoring import Scorable, pictures_of, score, scorer_of
from cos.server.service import Service
from cos.server.solving import Undecoded, taken
from cos.wire.score import RerankRequest, ScoreRequest, Scores, WrittenChain
from cos.wire.scored import pieces_of, ruler_of, scores_of

Fields = tuple[str, str | None, tuple[str, ...] | None, tuple[str, ...]]
"""All that a question is made of."""

router = APIRouter(prefix="/v1", tags=["score"])


def _body(model: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@router.post("/score", responses=ERRORS, openapi_extra=_body("ScoreRequest"))
async def score_chains(request: Request, service: TheService, account: TheAccount) -> Scores:
    """Scores every step of one chain or of many, and names the first step that the PRM takes for wrong."""
    account.strategy = "score"
    try:
        chains, ruler = await _chains_of(request, service)
    except InputError as error:
        if await _is_alone(request):
            _name_as_sent(error)
        raise
    found = await unless_gone(request.receive, score(service, chains, ruler, account))
    return _reply(service, request, "score", chains, found, ruler)


async def _chains_of(request: Request, service: Service) -> tuple[list[Scorable], Ruler]:
    asked = await read_json(request, ScoreRequest)
    ruler = ruler_of(scorer_of(service), asked)
    known: dict[Fields, Undecoded] = {}
    chains: list[Scorable] = []
    for number, item in enumerate(asked.items):
        at = f"items[{number}]."
        fields = (item.question, item.image, item.images, tuple(turn.model_dump_json() for turn in item.history or ()))
        if fields not in known:
            # What several chains answer is taken and decoded once.
            known[fields] = await taken(service, item, at=at)
        chains.append(Scorable(known[fields], await _pieces(item, service, f"{at}text")))
    return chains, ruler


async def _is_alone(request: Request) -> bool:
    """Whether a body has one chain, without a list of items."""
    try:
        body = json.loads(await request.body())
    except ValueError:
        return False
    return isinstance(body, dict) and "items" not in body and "question" in body


def _name_as_sent(error: InputError) -> None:
    """Names a field as the client did who sent no ``items``."""
    first = "items[0]"
    error.args = (str(error).replace(f"{first}.", "", 1).removeprefix(f"{first}: "),)
    error.param = error.param.removeprefix(first).removeprefix(".") or "body"


@router.post("/rerank", responses=ERRORS, openapi_extra=_body("RerankRequest"))
async def rerank(request: Request, service: TheService, account: TheAccount) -> Scores:
    """Puts the answers to one question in order, best first."""
    account.strategy = "rerank"
    asked = await read_json(request, RerankRequest)
    ruler = ruler_of(scorer_of(service), asked)
    question = await taken(service, asked)
    chains = [
        Scorable(question, await _pieces(answer, service, f"answers[{number}]"))
        for number, answer in enumerate(asked.answers)
    ]
    found = await unless_gone(request.receive, score(service, chains, ruler, account))
    return _reply(service, request, "rerank", chains, found, ruler, asked.top_n)


async def _pieces(written: WrittenChain, service: Service, param: str) -> tuple[Piece, ...]:
    """As `cos.wire.scored.pieces_of`. A text is cut in a thread: a long one takes a while."""
    if written.text is None:
        return pieces_of(written, service.models, param)
    return await asyncio.to_thread(pieces_of, written, service.models, param)


def _reply(
    service: Service,
    request: Request,
    kind: Literal["score", "rerank"],
    chains: list[Scorable],
    found: list[ScoredChain],
    ruler: Ruler,
    top_n: int | None = None,
) -> Scores:
    return scores_of(
        found,
        ruler,
        kind=kind,
        id=f"{kind}-{request.state.request_id}",
        prm=service.settings.prm_name or "none",
        models=service.models,
        pictures=pictures_of(chains),
        top_n=top_n,
    )
