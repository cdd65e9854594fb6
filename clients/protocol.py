"""Requests, replies and server-sent events, without any I/O but reading the image: both clients are built on these."""

import base64
import io
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

import httpx
from pydantic import ValidationError

from cos.clients.errors import (
    BadReply,
    BadRequest,
    CosClientError,
    ServerBusy,
    ServerFault,
    ServerUnreachable,
    Unauthorized,
)
from cos.wire.error import ErrorBody, ErrorReply
from cos.wire.events import Answered, Event, decoded
from cos.wire.reply import Solution
from cos.wire.request import Options
from cos.wire.score import ChainOptions, MeasureOptions, Scores, WrittenOptions

if TYPE_CHECKING:
    from PIL.Image import Image

OneImage: TypeAlias = "str | PathLike[str] | bytes | Image"
"""A path, a data URI, an image file's bytes, or a Pillow image."""
ImageLike: TypeAlias = "OneImage | list[str] | list[bytes] | list[OneImage] | tuple[OneImage, ...] | None"
"""One picture, a list of several in the order in which they are shown, or None for a question without a picture."""

Reply = TypeVar("Reply", Solution, Scores)

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT_S = 600.0
PROBE_PATH = "/v1/strategies"
"""What a cos server answers and others do not."""
PROBE_TIMEOUT_S = 1.0
DEFAULT_SEED = 0


def headers(api_key: str | None) -> dict[str, str]:
    """What every request carries."""
    key = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return {"Content-Type": "application/json", **key}


def timeouts(timeout_s: float) -> httpx.Timeout:
    """A search may take long; a server that is not there shows at once."""
    return httpx.Timeout(timeout_s, connect=10.0)


@contextmanager
def connected(url: str) -> Generator[None]:
    """Errors: ServerUnreachable in place of httpx's transport errors."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise ServerUnreachable(f"{url} did not answer in time ({type(error).__name__})") from error
    except httpx.ConnectError as error:
        raise ServerUnreachable(f"no server at {url} ({error}); start one with cos-serve, or give its --url") from error
    except httpx.TransportError as error:
        raise ServerUnreachable(f"the connection to {url} was lost: {error or type(error).__name__}") from error


def is_cos(response: httpx.Response) -> bool:
    """Whether a reply to the probe is a cos server's: its menu, or its demand for a key."""
    return response.is_success or (response.status_code == 401 and b"invalid_api_key" in response.content)


def base_url(url: str) -> httpx.URL:
    """Errors: BadRequest for what is no address of a server."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise BadRequest(f"url {url!r}: {error}; give one like {DEFAULT_URL}", "url") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise BadRequest(f"url {url!r} is no http address; give one like {DEFAULT_URL}", "url")
    return parsed


def solve_body(image: ImageLike, question: str, options: Options, *, stream: bool) -> bytes:
    """The JSON body of a request to /solve. Errors: BadRequest for an image that cannot be read or a value that JSON
    does not have."""
    given: dict[str, Any] = {"seed": DEFAULT_SEED, **options}
    further: Mapping[str, Any] = given.pop("strategy_params", {})
    return _asked({**given, **further, "question": question, "stream": stream}, image)


def score_body(image: ImageLike, question: str, chain: ChainOptions) -> bytes:
    """The JSON body of a request to /v1/score. Errors: as `solve_body`."""
    return _asked({**chain, "question": question}, image)


def rerank_body(
    image: ImageLike, question: str, answers: Sequence[str | WrittenOptions], top_n: int | None, measure: MeasureOptions
) -> bytes:
    """The JSON body of a request to /v1/rerank. Errors: as `solve_body`."""
    top = {} if top_n is None else {"top_n": top_n}
    return _asked({"question": question, "answers": list(answers), **top, **measure}, image)


def _asked(body: dict[str, Any], image: ImageLike) -> bytes:
    if isinstance(image, list | tuple):
        body["images"] = [encode_image(one) for one in image]
    elif image is not None:
        body["image"] = encode_image(image)
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError) as error:
        raise BadRequest(f"the question or an option cannot be sent as JSON: {error}") from error


def encode_image(image: OneImage) -> str:
    """An image as base64 or as the data URI it is. Errors: BadRequest naming the file that cannot be read."""
    if isinstance(image, str) and image[:5].lower() == "data:":
        return image
    return base64.b64encode(image_bytes(image)).decode()


def image_bytes(image: OneImage) -> bytes:
    """The bytes of an image file. Errors: BadRequest naming the file that cannot be read."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, PathLike)):
        return read_image(fspath(image))
    from cos.engines.pictures import as_seen

    buffer = io.BytesIO()
    as_seen(image).save(buffer, "PNG")
    return buffer.getvalue()


def read_image(path: str) -> bytes:
    """A file's bytes. Errors: BadRequest naming the file and what is wrong with it."""
    if path.startswith(("http://", "https://")):
        raise BadRequest(f"image {path!r}: remote images are not fetched; download it and give the file", "image")
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise BadRequest(
            f"image {path!r}: {error.strerror or error}; give a PNG, JPEG or WebP file", "image"
        ) from error
    if not data:
        raise BadRequest(f"image {path!r} is empty; give a PNG, JPEG or WebP file", "image")
    return data


def read_solution(response: httpx.Response) -> Solution:
    """A reply's solution. Errors: any CosClientError."""
    return _read(response, Solution)


def read_scores(response: httpx.Response) -> Scores:
    """A reply's scores. Errors: any CosClientError."""
    return _read(response, Scores)


def _read(response: httpx.Response, message: type[Reply]) -> Reply:
    check(response)
    try:
        return message.model_validate_json(response.content)
    except ValidationError as error:
        _not_cos(response, error)


def check(response: httpx.Response) -> None:
    """Errors: the CosClientError that a reply without success tells; its body must have been read."""
    if response.is_success:
        return
    try:
        body = ErrorReply.model_validate_json(response.content).error
    except ValidationError as error:
        _not_cos(response, error)
    raise error_of(body, response.headers)


def error_of(body: ErrorBody, reply_headers: Mapping[str, str] | None = None) -> CosClientError:
    """The error that a server tells."""
    wait_s, message = (reply_headers or {}).get("retry-after", ""), body.message
    match body.type:
        case "invalid_request_error":
            return BadRequest(message, body.param, body.code)
        case "authentication_error":
            return Unauthorized(f"{message}; give the server's key (--api-key, COS_API_KEY)")
        case "rate_limit_error":
            return ServerBusy(message, float(wait_s) if wait_s.isdecimal() else None)
        case _ if body.code == "shutting_down":
            return ServerBusy(message, float(wait_s) if wait_s.isdecimal() else None)
        case _:
            return ServerFault(message)


def _not_cos(response: httpx.Response, cause: Exception) -> NoReturn:
    url = response.request.url
    raise BadReply(f"{url} answered {response.status_code}, not as a cos server does; check the URL") from cause


class EventReader:
    """Puts the bytes of an event stream together into events."""

    def __init__(self) -> None:
        self._is_over = False
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that some more bytes complete. Errors: what an error event tells; BadReply."""
        # Split as bytes: text has more line ends than the format knows, and a model may write any of them.
        *blocks, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        for block in blocks:
            fields = [line.partition(b":") for line in block.split(b"\n")]
            name = b"".join(value.strip() for key, _, value in fields if key == b"event").decode()
            data = b"\n".join(value.removeprefix(b" ") for key, _, value in fields if key == b"data")
            if data and (event := self._event(name, data)) is not None:
                yield event

    def close(self) -> None:
        """Errors: BadReply when the stream has ended without an answer."""
        if not self._is_over:
            raise BadReply("the server's event stream ended before the answer; look at the server's log")

    def _event(self, name: str, data: bytes) -> Event | None:
        try:
            failure = ErrorReply.model_validate_json(data) if name == "error" else None
            event = decoded(name, data)
        except ValueError as error:
            raise BadReply(f"a {name!r} event of the server's stream cannot be read: {error}") from error
        if failure is not None:
            raise error_of(failure.error)
        self._is_over = self._is_over or isinstance(event, Answered)
        return event
