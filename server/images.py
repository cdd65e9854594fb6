"""From what a stranger sent to one safe RGB picture. Nothing is ever fetched and no path is ever opened.

What a picture is and how it is decoded stands in `cos.engines.pictures`, as training reads them the same way. Here
it is done in two parts. `ImageReader.take` reads a file's header, which is cheap and tells most of what can be wrong;
it comes before a request waits for its place. `ImageReader.decode` makes the pixels, once the request has its place.
"""

import asyncio
import base64
import binascii
import io
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from cos.engines.pictures import Origin, PictureLimits, decode, opened
from cos.search.errors import BadImage
from cos.search.types import Picture
from cos.server.errors import ImageUrlDisabled

DECODERS = 2
"""Pictures decoded at once, each in a thread of its own."""

_DATA_URI = re.compile(r"data:(?P<type>[^,;]*)(?P<options>(?:;[^,;]*)*),", re.IGNORECASE)
_SCHEME = re.compile(r"\s*([a-zA-Z][a-zA-Z0-9+.-]*):")
_BLANK = str.maketrans("", "", " \t\r\n")


@dataclass(slots=True)
class Upload:
    """A picture file that was sent, not decoded yet. It is decoded once, and then forgotten."""

    data: bytes
    param: str
    """Where in the request it stands."""

    def spend(self) -> bytes:
        """Its bytes. They are gone from here, so that a long search does not hold them."""
        data, self.data = self.data, b""
        return data


class Unwanted(BaseException):
    """Nobody waits for this picture any more. No error of a file's: what decodes must not take it for one."""


class ImageReader:
    """Decodes pictures, a few at a time. A context manager: its threads end with it."""

    def __init__(self, limits: PictureLimits) -> None:
        self._limits = limits
        self._pool = ThreadPoolExecutor(DECODERS, thread_name_prefix="decoder")

    def __enter__(self) -> "ImageReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def take(self, source: str | bytes, param: str) -> Upload:
        """A file, or the data URI or bare base64 of one, when by its header it is a picture that may be decoded.

        Errors: BadImage, ImageUrlDisabled.
        """
        if isinstance(source, str):
            _refuse_address(source, param)
        return await asyncio.to_thread(take, source, self._limits, param)

    async def decode(self, upload: Upload) -> Picture:
        """The picture. Cancelled, it is not begun if it still waits for a thread, and soon over if it runs.

        Errors: BadImage.
        """
        unwanted, loop = threading.Event(), asyncio.get_running_loop()

        def check() -> None:
            if unwanted.is_set():
                raise Unwanted

        try:
            origin = Origin(upload.param, upload.param)
            return await loop.run_in_executor(self._pool, decode, upload.spend(), origin, self._limits, check)
        finally:
            unwanted.set()


def take(source: str | bytes, limits: PictureLimits, param: str) -> Upload:
    """As `ImageReader.take`."""
    data = decode_base64(source, param) if isinstance(source, str) else source
    with opened(io.BytesIO(data), Origin(param, param), limits):
        return Upload(data, param)


def _refuse_address(text: str, param: str) -> None:
    """Errors: ImageUrlDisabled for anything with a scheme other than ``data``."""
    scheme = _SCHEME.match(text[:64])
    if scheme and scheme[1].lower() != "data":
        raise ImageUrlDisabled(
            f"{param}: this server fetches no images ({scheme[1].lower()}: address given); "
            "send the image as a data URI: data:image/png;base64,...",
            param,
        )


def decode_base64(text: str, param: str) -> bytes:
    """The bytes of a data URI or of bare base64; blanks and line breaks in it do not count. Errors: BadImage."""
    head = _DATA_URI.match(text.lstrip()[:256])
    body = text.lstrip()
    if head:
        if "base64" not in head["options"].lower():
            raise BadImage(
                f"{param}: a data URI that is not base64; send data:image/png;base64,...", param, "not_base64"
            )
        body = body[head.end() :]
    elif body[:5].lower() == "data:":
        raise BadImage(f"{param}: a data URI without a comma; send data:image/png;base64,...", param, "not_base64")
    try:
        data = base64.b64decode(body.translate(_BLANK), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImage(
            f"{param}: not base64; send data:image/png;base64,... or the file itself as multipart/form-data",
            param,
            "not_base64",
        ) from error
    return data
