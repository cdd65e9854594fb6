"""POST /solve: a question about an image in, the best answer with its scored steps out."""

from typing import Any

from fastapi import APIRouter, Request, Response

from cos.search.events import Event
from cos.server.bodies import media_type, read_form, read_json
from cos.server.images import Upload
from cos.server.race import unless_gone
from cos.server.routes.context import ERRORS, TheAccount, TheService
from cos.server.service import Run, Service
from cos.server.streaming import Put, Work, open_stream
from cos.wire.job import event_frame
from cos.wire.request import SolveReply, SolveRequest

router = APIRouter(tags=["solve"])

_SCHEMA = {"$ref": "#/components/schemas/SolveRequest"}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _SCHEMA}, "multipart/form-data": {"schema": _SCHEMA}},
    }
}


@router.post("/solve", response_model=SolveReply, responses=ERRORS, openapi_extra=_BODY)
@router.post("/v1/solve", response_model=SolveReply, responses=ERRORS, openapi_extra=_BODY, include_in_schema=False)
async def solve(request: Request, service: TheService, account: TheAccount) -> Response:
    """Searches for the answer. As JSON, or as a form with the picture as a file in ``image``.

    With ``stream`` the reply is server-sent events: opened, candidate, scored, selected, answered (the whole reply), or
    error.
    """
    asked, upload = await _read(request, service)
    job = service.planner.plan(service.question(asked.question, upload, asked.choices or ()), asked)
    run = service.search(job, upload, account)
    if asked.stream:
        return await open_stream(_events(run), request.receive, error_event="error")
    reply = await unless_gone(request.receive, run.finish())
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


def _events(run: Run) -> Work:
    async def work(put: Put) -> None:
        number = 0

        def tell(event: Event) -> None:
            nonlocal number
            number += 1
            put(event_frame(run.job, event, number))

        await run.finish(tell)

    return work
