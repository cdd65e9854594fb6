"""What a route is given besides its request."""

from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from cos.server.metrics import Account
from cos.server.service import Service
from cos.wire.error import ErrorReply


def _service(request: Request) -> Service:
    return request.app.state.service


def _account(request: Request) -> Account:
    return request.state.account


TheService = Annotated[Service, Depends(_service)]
TheAccount = Annotated[Account, Depends(_account)]

ERRORS: dict[int | str, dict[str, object]] = {
    status: {"model": ErrorReply, "description": text}
    for status, text in {
        400: "The body cannot be parsed; on OpenAI's routes also what is a 422 elsewhere.",
        401: "No valid API key.",
        403: "The page or the host that it comes from is not one this server answers to.",
        413: "The body is too large.",
        415: "The body's type is not supported.",
        422: "A field has a value that cannot be used; ``param`` names it.",
        429: "Every place is taken; try again after ``Retry-After``.",
        502: "The engine could not carry out the search.",
        503: "An engine has died, or the server is shutting down.",
        504: "The time limit came before the first candidate.",
    }.items()
}
"""Error replies, as the OpenAPI page tells them."""
