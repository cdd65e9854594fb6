"""POST /solve: a question about pictures in, the best answer with its scored steps out."""

from typing import Any

from fastapi import APIRouter, Request, Response

from cos.search.events import Event
from cos.server.bodies import media_type, read_form, read_json
from cos.server.metrics import Account
from cos.server.race import unless_gone
from cos.server.routes.context import ERRORS, TheAccount, TheService
from cos.server.service import Service
from cos.server.solving import Undecoded, taken
from cos.server.solving import solve as search
from cos.server.streaming import Put, Work, frame, open_stream
from cos.wire.asked import Sent
from cos.wire.events import encoded
from cos.wire.job import Job
from cos.wire.reply import Solution
from cos.wire.request import SolveRequest

router = APIRouter(tags=["solve"])

_SCHEMA = {"$ref": "#/components/schemas/SolveRequest"}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _SCHEMA}, "multipart/form-data": {"schema": _SCHEMA}},
    }
}


@router.post("/solve", response_model=Solution, responses=ERRORS, openapi_extra=_BODY)
@router.post("/v1/solve", response_model=Solution, responses=ERRORS, openapi_extra=_BODY, include_in_schema=False)
async def solve(request: Request, service: TheService, account: TheAccount) -> Response:
    """Searches for the answer. As JSON, or as a form with the picture as a file in ``image``, or several in ``images``.

    With ``stream`` the reply is server-sent events: opened, candidate, scored, selected, answered (the whole reply), or
    error.
    """
    wanted, undecoded = await _read(request, service)
    job = service.planner.plan(undecoded.asked.question(), wanted)
    if wanted.stream:
        events = _events(service, job, undecoded, account)
        return await open_stream(events, request.receive, error_event="error")
    reply = await unless_gone(request.receive, search(service, job, undecoded, account))
    return Response(reply.model_dump_json(), media_type="application/json")


async def _read(request: Request, service: Service) -> tuple[SolveRequest, Undecoded]:
    files: tuple[Sent, ...] = ()
    if media_type(request) == "multipart/form-data":
        wanted, files = await read_form(request, SolveRequest, service.settings.max_body_bytes)
    else:
        wanted = await read_json(request, SolveRequest)
    undecoded = await taken(service, wanted, files=files, choices=wanted.choices or ())
    # A long search holds neither what was sent nor a copy of it.
    return wanted.model_copy(update={"image": None, "images": None, "history": None}), undecoded


def _events(service: Service, job: Job, undecoded: Undecoded, account: Account) -> Work:
    async def work(put: Put) -> None:
        number = 0

        def listener(event: Event) -> None:
            nonlocal number
            number += 1
            name, data = encoded(job.event(event))
            put(frame(data, event=name, number=number))

        await search(service, job, undecoded, account, listener)

    return work
