"""POST /solve: a question about an image in, the best answer with its scored steps out."""

from typing import Any

from fastapi import APIRouter, Request, Response

from cos.search.events import Event
from cos.server.bodies import media_type, read_form, read_json
from cos.server.images import Upload
from cos.server.metrics import Account
from cos.server.race import unless_gone
from cos.server.routes.context import ERRORS, TheAccount, TheService
from cos.server.service import Service
from cos.server.solving import solve as search
from cos.server.streaming import Put, Work, frame, open_stream
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
    """Searches for the answer. As JSON, or as a form with the picture as a file in ``image``.

    With ``stream`` the reply is server-sent events: opened, candidate, scored, selected, answered (the whole reply), or
    error.
    """
    asked, upload = await _read(request, service)
    job = service.planner.plan(service.question(asked.question, upload, asked.choices or ()), asked)
    if asked.stream:
        events = _events(service, job, upload, account)
        return await open_stream(events, request.receive, error_event="error")
    reply = await unless_gone(request.receive, search(service, job, upload, account))
    return Response(reply.model_dump_json(), media_type="application/json")


async def _read(request: Request, service: Service) -> tuple[SolveRequest, Upload | None]:
    if media_type(request) == "multipart/form-data":
        asked, file = await read_form(request, SolveRequest, service.settings.max_body_bytes)
        if file is not None:
            return asked, await service.take(file, "image")
    else:
        asked = await read_json(request, SolveRequest)
    if asked.image is None:
        return asked, None
    return asked, await service.take(asked.image, "image")


def _events(service: Service, job: Job, upload: Upload | None, account: Account) -> Work:
    async def work(put: Put) -> None:
        number = 0

        def listener(event: Event) -> None:
            nonlocal number
            number += 1
            name, data = encoded(job.event(event))
            put(frame(data, event=name, number=number))

        await search(service, job, upload, account, listener)

    return work
