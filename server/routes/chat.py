"""POST /v1/chat/completions: the same search behind OpenAI's interface."""

from typing import Any

from fastapi import APIRouter, Request, Response

from cos.search.events import Answered, Event
from cos.server import chat
from cos.server.bodies import read_json
from cos.server.chat import Completion
from cos.server.chat_schemas import ChatReply, ChatRequest
from cos.server.race import unless_gone
from cos.server.routes.context import ERRORS, TheAccount, TheService
from cos.server.routes.models import refuse_other_model
from cos.server.service import Run
from cos.server.streaming import Put, Work, open_stream

router = APIRouter(prefix="/v1", tags=["openai"])

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ChatRequest"}}},
    }
}


@router.post("/chat/completions", response_model=ChatReply, responses=ERRORS, openapi_extra=_BODY)
async def chat_completions(request: Request, service: TheService, account: TheAccount) -> Response:
    """Answers one question about one image. The final answer is the content, its scored steps are the reasoning.

    Options of the search go into ``cos`` (``extra_body={"cos": {...}}`` in OpenAI's client); the reply's ``cos`` is the
    whole reply of /solve. With ``stream`` the chunks come when the winning chain is known, comments until then.
    """
    wanted = await read_json(request, ChatRequest)
    refuse_other_model(service, wanted.model)
    asked = chat.asked(wanted, system_text=service.takes_system_text)
    if asked.image_url is None and service.settings.image_required:
        raise chat.no_picture()
    upload = None if asked.image_url is None else await service.take(asked.image_url, asked.image_param)
    question = service.question(asked.text, upload)
    strategy = service.settings.strategy
    told = chat.warnings(wanted, asked, strategy)
    run = service.search(service.planner.plan(question, chat.options(wanted, strategy), told), upload, account)
    if wanted.stream:
        include_usage = wanted.stream_options is not None and wanted.stream_options.include_usage
        return await open_stream(_chunks(run, include_usage=include_usage), request.receive)
    completion = await unless_gone(request.receive, _complete(run))
    return Response(completion.whole().model_dump_json(), media_type="application/json")


async def _complete(run: Run) -> Completion:
    answer_tokens = 0

    def tell(event: Event) -> None:
        nonlocal answer_tokens
        if isinstance(event, Answered):
            answer_tokens = chat.answer_tokens(event.result)

    reply = await run.finish(tell)
    return Completion.of(reply, run.prompt_tokens, answer_tokens)


def _chunks(run: Run, *, include_usage: bool) -> Work:
    async def work(put: Put) -> None:
        for text in (await _complete(run)).frames(include_usage=include_usage):
            put(text)

    return work
