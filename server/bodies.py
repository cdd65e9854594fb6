"""Request bodies as models: JSON, or a form with files. Everything else is refused before it is parsed."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect, Request

from cos.server.errors import BodyTooSlow, ClientGone, MalformedBody, UnsupportedMedia, input_error
from cos.wire.asked import Sent

BODY_TIMEOUT_S = 60.0
"""How long a client may take to send its body."""
MAX_FORM_FIELDS = 64
MAX_FORM_FILES = 1000
"""How many of them are used is for the server to say; their size is bounded by the body's."""
TEXT_FIELDS = frozenset({"question", "image", "strategy", "score", "aggregation"})
"""Form fields that are text even where they look like numbers."""

Model = TypeVar("Model", bound=BaseModel)


def media_type(request: Request) -> str:
    """The body's type without its parameters. Errors: UnsupportedMedia for a body that is encoded."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMedia(f"Content-Encoding {encoding!r} is not supported; send the body as it is")
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json(request: Request, model: type[Model]) -> Model:
    """The body as a model. Errors: UnsupportedMedia, BodyTooSlow, ClientGone, MalformedBody, InputError,
    UnknownField."""
    if (given := media_type(request)) != "application/json":
        raise UnsupportedMedia(f"Content-Type {given or 'missing'!r} is not supported; send application/json")
    async with _arriving():
        body = await request.body()
    return parse(model, body)


async def read_form(request: Request, model: type[Model], max_bytes: int) -> tuple[Model, tuple[Sent, ...]]:
    """A form's fields as a model, and the file in its field ``image`` or the files in its fields ``images``. Errors: as
    `read_json`."""
    async with (
        _arriving(),
        request.form(max_files=MAX_FORM_FILES, max_fields=MAX_FORM_FIELDS, max_part_size=max_bytes) as form,
    ):
        return await _from_form(form, model)


@asynccontextmanager
async def _arriving() -> AsyncGenerator[None]:
    """Waits for a body. Errors: BodyTooSlow, ClientGone."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            yield
    except TimeoutError:
        raise BodyTooSlow(f"the body did not arrive within {BODY_TIMEOUT_S:g} s") from None
    except ClientDisconnect:
        raise ClientGone("the client closed the connection before its body was there") from None


async def _from_form(form: FormData, model: type[Model]) -> tuple[Model, tuple[Sent, ...]]:
    fields: dict[str, Any] = {}
    files: list[Sent] = []
    for name, value in form.multi_items():
        if name in fields or (name == "image" and files):
            several = "; send one, or several files as 'images'" if name == "image" else "; send one"
            raise MalformedBody(f"the form has two fields {name!r}{several}", name)
        if isinstance(value, UploadFile):
            if name not in ("image", "images"):
                raise MalformedBody(f"a file in the field {name!r}; send it as 'image' or 'images'", name)
            param = name if name == "image" else f"images[{len(files)}]"
            files.append(Sent(await value.read(), param))
        else:
            fields[name] = value if name in TEXT_FIELDS else _plain_value(value)
    if len({sent.param.partition("[")[0] for sent in files}) > 1:
        raise MalformedBody("the form has files in 'image' and in 'images'; send all of them as 'images'", "images")
    return parse(model, json.dumps(fields)), tuple(files)


def _plain_value(text: str) -> Any:
    """A form field's number, truth value or object; text that is none of these stays text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def parse(model: type[Model], body: bytes | str) -> Model:
    """Errors: MalformedBody for what is no JSON, InputError and UnknownField for values that do not fit."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise input_error(error) from error
