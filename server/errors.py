"""Errors on their way to a client: one table from type to HTTP status, and one shape, OpenAI's nested ``error``.

CosError
+-- InputError          422  a value the caller gave (cos.search.errors)
|   +-- UnknownField    422  a field that does not exist
|   +-- BadImage        422  bytes that are no usable picture
|   |   +-- ImageUrlDisabled 422 a remote address in place of a picture
|   +-- ModelNotFound   404  another model's name
|   +-- MalformedBody   400  a body that is no JSON, no form
+-- ServerError              the server will not carry out this request
    +-- Unauthorized    401
    +-- Foreign         403
    +-- MetricsOff      404
    +-- BodyTooSlow     408
    +-- BodyTooLarge    413
    +-- UnsupportedMedia 415
    +-- Overloaded      429
    +-- ClientGone      499  nobody is listening any more
    +-- Draining        503
    +-- SearchTimeout   504

Text of engine errors never reaches a client: it goes to the log, under the request's id.
"""

import logging
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, cast

from fastapi import FastAPI
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cos.engines.remote_errors import RemoteDead, RemoteError
from cos.search.errors import BadImage, CosError, EngineDead, EngineError, InputError, SearchFailed
from cos.search.tasks import forget_traceback
from cos.wire.error import ErrorBody, ErrorReply

logger = logging.getLogger(__name__)


class UnknownField(InputError):
    """A field that the request's schema does not have."""


class ImageUrlDisabled(BadImage):
    """An address where an image is wanted. The server never fetches anything."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message, param, "address")


class ModelNotFound(InputError):
    """A model name that is not served here."""


class MalformedBody(InputError):
    """A request body that cannot be parsed at all."""


class ServerError(CosError):
    """The server will not carry out this request; no value in it is to blame."""


class Unauthorized(ServerError):
    """No key, or a wrong one."""


class Foreign(ServerError):
    """A page, or a name for this server, that it does not answer to."""


class BodyTooSlow(ServerError):
    """The request body did not arrive in time."""


class BodyTooLarge(ServerError):
    """The request body is over the limit."""


class UnsupportedMedia(ServerError):
    """The request body has a type or an encoding that is not read here."""


class Overloaded(ServerError):
    """Every place is taken, in the engines and in the queue."""


class ClientGone(ServerError):
    """The client closed the connection before the reply."""


class Draining(ServerError):
    """The server is shutting down."""


class MetricsOff(ServerError):
    """The server was started without metrics."""


class EngineStuck(ServerError):
    """An engine takes no step; a search that needs it would only wait."""


class SearchTimeout(ServerError):
    """The time limit came before the first candidate, or before the scores that were asked for."""


@dataclass(frozen=True, slots=True)
class Fault:
    """How one type of error is reported to a client."""

    status: int
    type: str
    code: str
    message: str | None = None
    """Sent in place of the error's own text, where that may hold internals."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


_BAD, _LOAD, _SERVER = "invalid_request_error", "rate_limit_error", "server_error"
# OpenAI clients repeat a 5xx by themselves unless told not to: a search that failed would be paid for three times.
_NO_RETRY = {"x-should-retry": "false"}

FAULTS: dict[type[Exception], Fault] = {
    UnknownField: Fault(422, _BAD, "unknown_field"),
    BadImage: Fault(422, _BAD, "invalid_image"),
    ImageUrlDisabled: Fault(422, _BAD, "image_url_disabled"),
    ModelNotFound: Fault(404, _BAD, "model_not_found"),
    MalformedBody: Fault(400, _BAD, "malformed_body"),
    InputError: Fault(422, _BAD, "invalid_value"),
    Unauthorized: Fault(401, "authentication_error", "invalid_api_key", headers={"WWW-Authenticate": "Bearer"}),
    Foreign: Fault(403, "permission_error", "foreign_request"),
    BodyTooSlow: Fault(408, _BAD, "body_too_slow", headers=_NO_RETRY),
    BodyTooLarge: Fault(413, _BAD, "body_too_large"),
    UnsupportedMedia: Fault(415, _BAD, "unsupported_media_type"),
    Overloaded: Fault(429, _LOAD, "overloaded", headers={"Retry-After": "1"}),
    ClientGone: Fault(499, _BAD, "client_closed_request"),
    MetricsOff: Fault(404, _BAD, "metrics_off"),
    Draining: Fault(503, _SERVER, "shutting_down", headers={"Retry-After": "10"}),
    EngineStuck: Fault(503, _SERVER, "engine_stuck", headers={"Retry-After": "10"}),
    SearchTimeout: Fault(504, _SERVER, "timeout", headers=_NO_RETRY),
    SearchFailed: Fault(422, _BAD, "budget_too_small"),
    RemoteDead: Fault(
        503,
        _SERVER,
        "remote_unreachable",
        "a model on another server cannot be reached; try again later",
        {"Retry-After": "10"},
    ),
    RemoteError: Fault(502, _SERVER, "remote_error", "another server could not carry out this search", _NO_RETRY),
    EngineDead: Fault(503, _SERVER, "engine_dead", "an engine has died; try again later", {"Retry-After": "30"}),
    EngineError: Fault(502, _SERVER, "engine_error", "the engine could not carry out this search", _NO_RETRY),
    Exception: Fault(500, _SERVER, "internal_error", "internal error; the server's log has the details", _NO_RETRY),
}
"""The nearest class an error inherits from decides."""

OPENAI_PATHS = frozenset({"/v1/chat/completions"})
"""Routes whose errors are OpenAI's."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def fault_of(error: Exception) -> Fault:
    """How an error is to be reported."""
    return next(FAULTS[kind] for kind in type(error).__mro__ if kind in FAULTS)


def error_reply(error: Exception) -> ErrorReply:
    """The body that reports an error."""
    fault = fault_of(error)
    message = fault.message or _ADDRESS.sub("", str(error))
    param = error.param if isinstance(error, InputError) else None
    return ErrorReply(error=ErrorBody(message=message, type=fault.type, param=param, code=fault.code))


def error_response(error: Exception, path: str = "") -> Response:
    """The response that reports an error. On OpenAI's own ``path`` a value that cannot be used is a 400, as at OpenAI:
    clients take a 422 for a validation that they may pass over."""
    fault = fault_of(error)
    status = 400 if fault.status == 422 and path in OPENAI_PATHS else fault.status
    return JSONResponse(error_reply(error).model_dump(), status, dict(fault.headers))


def note_error(scope: MutableMapping[str, Any], error: Exception) -> None:
    """Notes the error for the log line and the spans of a request for a search."""
    if (account := scope.get("state", {}).get("account")) is not None:
        account.error = fault_of(error).code


def log_error(error: Exception) -> None:
    """Logs what a client does not get to see. The message of an unforeseen error may quote the request: the log's
    form decides whether it is shown."""
    fault = fault_of(error)
    if fault.status < 500:
        return
    if fault.code == "internal_error":
        logger.error("%s: %s", fault.code, type(error).__name__, exc_info=error)
    else:
        logger.error("%s: %s", fault.code, error)


def input_error(error: ValidationError) -> InputError:
    """The first complaint of a validation as ours, naming the field, the value and what is allowed."""
    first = error.errors(include_url=False)[0]
    name, message = _location(first["loc"]), first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        if "surrogate" in message or "hex escape" in message:
            return InputError(f"the body is not valid Unicode: {message.removeprefix('Invalid JSON: ')}", "body")
        return MalformedBody(f"the body is not JSON: {message.removeprefix('Invalid JSON: ')}", "body")
    if first["type"] == "extra_forbidden":
        return UnknownField(f"unknown field {name!r}; remove it (every field is listed at /docs)", name)
    if first["type"] == "missing":
        return InputError(f"{name} is missing", name)
    given = "" if first["type"] == "value_error" else _excerpt(first["input"])
    return InputError(f"{name or 'body'}{given}: {message}", name or "body")


def _location(loc: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def _excerpt(value: object) -> str:
    """`` = value``, where it is short enough to be read."""
    shown = repr(value)
    return f" = {shown}" if len(shown) <= 60 else ""


def install_error_handlers(app: FastAPI) -> None:
    """Has every error of a route reported in the one shape."""

    async def reply(request: Request, error: Exception) -> Response:
        log_error(error)
        note_error(request.scope, error)
        # The framework keeps the error in frames that its traceback leads to; the request and its picture must go.
        forget_traceback(error)
        return error_response(error, request.scope["path"])

    async def reply_to_http(request: Request, error: Exception) -> Response:
        problem = cast("HTTPException", error)
        code = {404: "not_found", 405: "method_not_allowed"}.get(problem.status_code, "bad_request")
        text = f"{request.method} {request.scope['path']}: {problem.detail}"
        body = ErrorBody(message=text, type=_BAD if problem.status_code < 500 else _SERVER, code=code)
        return JSONResponse(ErrorReply(error=body).model_dump(), problem.status_code, problem.headers)

    app.add_exception_handler(CosError, reply)
    app.add_exception_handler(HTTPException, reply_to_http)
