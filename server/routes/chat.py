"""POST /v1/chat/completions: the same search behind OpenAI's interface."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from cos.search.events import Answered, Event, Opened
from cos.server import chat
from cos.server.bodies import read_json
from cos.server.chat import Completion
from cos.server.chat_schemas import ChatReply, ChatRequest
from cos.server.metrics import Account
from cos.server.race import unless_gone
from cos.server.routes.context import ERRORS, TheAccount, TheService
from cos.server.routes.models import refuse_other_model
from cos.server.service import Service
from cos.server.solving import Undecoded, solve
from cos.server.streaming import Put, Work, open_stream
from cos.wire.job import Job

router = APIRouter(prefix="/v1", tags=["openai"])

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ChatRequest"}}},
    }
}


@router.post("/chat/completions", response_model=ChatReply, responses=ERRORS, openapi_extra=_BODY)
async def chat_completions(request: Request, service: TheService, account: TheAccount) -> Response:
    """Answers the last message of a conversation. The final answer is the content, its scored steps the reasoning.

    Options of the search go into ``cos`` (``extra_body={"cos": {...}}`` in OpenAI's client); the reply's ``cos`` is the
    whole reply of /solve. With ``stream`` the chunks come when the winning chain is known, comments until then.
    """
    wanted = await read_json(request, ChatRequest)
    refuse_other_model(service, wanted.model)
    found = chat.read(wanted, system_text=service.takes_system_text)
    if not found.sent and service.pictures.fewest:
        raise chat.no_picture()
    undecoded = Undecoded(found.asked, await service.take(found.sent))
    strategy = service.settings.strategy
    warnings = chat.warnings(wanted, found, strategy)
    job = service.planner.plan(undecoded.asked.question(), chat.options(wanted, strategy), warnings)
    completing = partial(_complete, service, job, undecoded, account)
    streams = bool(wanted.stream)
    include_usage = wanted.stream_options is not None and wanted.stream_options.include_usage
    # A long search holds nothing of what was sent.
    del wanted, found
    if streams:
        return await open_stream(_chunks(completing, include_usage=include_usage), request.receive)
    completion = await unless_gone(request.receive, completing())
    return Response(completion.whole().model_dump_json(), media_type="application/json")


async def _complete(service: Service, job: Job, undecoded: Undecoded, account: Account) -> Completion:
    prompt_tokens = answer_tokens = 0

    def listener(event: Event) -> None:
        nonlocal prompt_tokens, answer_tokens
        if isinstance(event, Opened):
            prompt_tokens = event.prompt_tokens
        elif isinstance(event, Answered):
            answer_tokens = chat.answer_tokens(event.result)

    solution = await solve(service, job, undecoded, account, listener)
    return Completion.of(solution, prompt_tokens, answer_tokens)


def _chunks(completing: Callable[[], Awaitable[Completion]], *, include_usage: bool) -> Work:
    async def work(put: Put) -> None:
        for text in (await completing()).frames(include_usage=include_usage):
            put(text)

    return work
