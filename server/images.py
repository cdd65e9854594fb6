"""From what a stranger sent to one safe RGB picture. Nothing is ever fetched and no path is ever opened.

What a picture is and how it is decoded stands in `cos.engines.pictures`, as training reads them the same way. Here
it is done in two parts. `ImageReader.take` reads a file's header, which is cheap and tells most of what can be wrong;
it comes before a request waits for its place. `ImageReader.decode` makes the pixels, once the request has its place.
"""

import asyncio
import io
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from cos.engines.pictures import Origin, PictureLimits, decode, decode_base64, opened
from cos.search.types import Picture
from cos.server.errors import ImageUrlDisabled
from cos.wire.asked import Sent

DECODERS = 2
"""Pictures decoded at once, each in a thread of its own."""

_SCHEME = re.compile(r"\s*([a-zA-Z][a-zA-Z0-9+.-]*):")


@dataclass(slots=True)
class Upload:
    """A picture file that was sent, not decoded yet. It is decoded once, and then forgotten."""

    data: bytes
    param: str
    """Where in the request it stands."""
    megapixels: float

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

    async def take(self, sent: Sequence[Sent]) -> tuple[Upload, ...]:
        """The pictures of one request, each a file, or the data URI or bare base64 of one, when by their headers they
        are pictures that may be decoded. The limit of megapixels is for all of them together.

        Errors: BadImage, ImageUrlDisabled.
        """
        for one in sent:
            if isinstance(one.source, str):
                _refuse_address(one.source, one.param)
        return await asyncio.to_thread(take, sent, self._limits)

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


def take(sent: Sequence[Sent], limits: PictureLimits) -> tuple[Upload, ...]:
    """As `ImageReader.take`."""
    taken: list[Upload] = []
    for one in sent:
        taken.append(_take(one, limits))
        if (megapixels := sum(upload.megapixels for upload in taken)) > limits.megapixels:
            raise Origin(one.param, one.param).refused(
                f"{len(taken)} pictures of {megapixels:.1f} megapixels together, the limit for all pictures of a "
                f"request is {limits.megapixels:g} ({limits.raised_by}); give smaller ones",
                "too_large",
            )
    return tuple(taken)


def _take(one: Sent, limits: PictureLimits) -> Upload:
    data = decode_base64(one.source, one.param) if isinstance(one.source, str) else one.source
    with opened(io.BytesIO(data), Origin(one.param, one.param), limits) as found:
        return Upload(data, one.param, found.width * found.height / 1e6)


def _refuse_address(text: str, param: str) -> None:
    """Errors: ImageUrlDisabled for anything with a scheme other than ``data``."""
    scheme = _SCHEME.match(text[:64])
    if scheme and scheme[1].lower() != "data":
        raise ImageUrlDisabled(
            f"{param}: this server fetches no images ({scheme[1].lower()}: address given); "
            "send the image as a data URI: data:image/png;base64,...",
            param,
        )
