"""From bytes a stranger sent to one safe RGB picture. Nothing is ever fetched and no path is ever opened.

In two parts. `ImageReader.take` reads a file's header, which is cheap and tells most of what can be wrong; it comes
before a request waits for its place. `ImageReader.decode` makes the pixels, once the request has its place.
"""

import asyncio
import base64
import binascii
import hashlib
import io
import re
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from cos.search.errors import InputError
from cos.search.types import Picture
from cos.server.errors import BadImage, ImageUrlDisabled

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_ASPECT = 200
"""Longer side over shorter side: beyond it image processors fail or make thousands of tiles."""
DECODERS = 2
"""Pictures decoded at once, each in a thread of its own."""
BLOCK_BYTES = 4096
"""What a decoder is fed at a time: how soon it notices that nobody waits for its picture any more."""

_DATA_URI = re.compile(r"data:(?P<type>[^,;]*)(?P<options>(?:;[^,;]*)*),", re.IGNORECASE)
_SCHEME = re.compile(r"\s*([a-zA-Z][a-zA-Z0-9+.-]*):")
_BLANK = str.maketrans("", "", " \t\r\n")

_SCALES = {"L;2": 85, "L;4": 17}
"""From levels of grey as a PNG counts them to those of 8 bits, by Pillow's names of how pixels are stored."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture file that was sent, not decoded yet."""

    data: bytes
    param: str
    """Where in the request it stands."""


class Unwanted(BaseException):
    """Nobody waits for this picture any more. No error of a file's: what decodes must not take it for one."""


class ImageReader:
    """Decodes pictures, a few at a time. A context manager: its threads end with it."""

    def __init__(self, max_megapixels: float) -> None:
        self._max_megapixels = max_megapixels
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
        return await asyncio.to_thread(take, source, self._max_megapixels, param)

    async def decode(self, upload: Upload) -> Picture:
        """The picture. Cancelled, it is not begun if it still waits for a thread, and soon over if it runs.

        Errors: BadImage.
        """
        unwanted, loop = threading.Event(), asyncio.get_running_loop()

        def check() -> None:
            if unwanted.is_set():
                raise Unwanted

        try:
            return await loop.run_in_executor(
                self._pool, decode, upload.data, self._max_megapixels, upload.param, check
            )
        finally:
            unwanted.set()


def take(source: str | bytes, max_megapixels: float, param: str) -> Upload:
    """As `ImageReader.take`."""
    data = decode_base64(source, param) if isinstance(source, str) else source
    with _opened(io.BytesIO(data), max_megapixels, param):
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
            raise BadImage(f"{param}: a data URI that is not base64; send data:image/png;base64,...", param)
        body = body[head.end() :]
    elif body[:5].lower() == "data:":
        raise BadImage(f"{param}: a data URI without a comma; send data:image/png;base64,...", param)
    try:
        data = base64.b64decode(body.translate(_BLANK), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImage(
            f"{param}: not base64; send data:image/png;base64,... or the file itself as multipart/form-data", param
        ) from error
    return data


def decode(data: bytes, max_megapixels: float, param: str, check: Callable[[], None] = lambda: None) -> Picture:
    """One upright RGB picture, the first frame of an animation, transparency on white. ``check`` is called between its
    parts and may end it. Errors: BadImage, and those of ``check``, which should be no ``Exception``."""
    check()
    with _opened(_Checked(data, check), max_megapixels, param) as opened:
        opened.decodermaxblock = BLOCK_BYTES
        image = _to_rgb(_upright(opened, check))
    check()
    digest = hashlib.sha256(f"{image.mode}:{image.width}x{image.height}:".encode() + image.tobytes())
    return Picture(image, digest.hexdigest())


class _Checked(io.BytesIO):
    """A file that calls ``check`` whenever more of it is read."""

    def __init__(self, data: bytes, check: Callable[[], None]) -> None:
        super().__init__(data)
        self._check = check

    def read(self, size: int | None = -1, /) -> bytes:
        self._check()
        return super().read(size)


@contextmanager
def _opened(file: io.BytesIO, max_megapixels: float, param: str) -> Generator[ImageFile.ImageFile]:
    """The picture in a file, none of its pixels decoded; what goes wrong with it is told. Errors: BadImage."""
    if not file.getbuffer().nbytes:
        raise BadImage(f"{param}: empty; send a picture", param)
    try:
        with Image.open(file, formats=FORMATS) as opened:
            _check_size(opened.width, opened.height, max_megapixels, param)
            yield opened
    except InputError:
        raise
    except UnidentifiedImageError:
        raise BadImage(f"{param}: not an image (expected PNG, JPEG, WEBP, GIF or BMP)", param) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(
            f"{param}: more than {(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} megapixels, the limit is "
            f"{max_megapixels:g} (--max-image-megapixels); send a smaller picture",
            param,
        ) from None
    except Exception as error:
        # A broken file makes Pillow raise nearly anything: OSError, SyntaxError, ValueError, struct.error, ...
        raise BadImage(f"{param}: a broken image file; its pixels cannot be decoded", param) from error


def _check_size(width: int, height: int, max_megapixels: float, param: str) -> None:
    if min(width, height) < 1:
        raise BadImage(f"{param}: {width}x{height} pixels; send a picture with pixels in it", param)
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        raise BadImage(
            f"{param}: {megapixels:.1f} megapixels, the limit is {max_megapixels:g} (--max-image-megapixels); "
            "send a smaller picture",
            param,
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage(f"{param}: {width}x{height} pixels; one side may be {MAX_ASPECT} times the other at most", param)


def _upright(image: ImageFile.ImageFile, check: Callable[[], None]) -> Image.Image:
    """Its pixels, turned as its EXIF orientation says. That is read last: a broken EXIF block turns nothing."""
    stored_as = str(image.tile[0][3]) if image.format == "PNG" and image.tile else ""
    image.load()
    check()
    _scale_clear_colour(image, stored_as)
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _scale_clear_colour(image: Image.Image, stored_as: str) -> None:
    """A PNG names its transparent colour in the depth of the file; Pillow scales pixels to 8 bits, but not the name."""
    match image.info.get("transparency"):
        case int(level) if stored_as in _SCALES:
            image.info["transparency"] = level * _SCALES[stored_as]
        case (int(red), int(green), int(blue)) if stored_as == "RGB;16B":
            image.info["transparency"] = (red >> 8, green >> 8, blue >> 8)
        case _:
            pass


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _to_eight_bits(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits a pixel; Pillow's own conversion would clip instead of scaling, and forget the clear level."""
    levels = np.asarray(image)
    grey = Image.fromarray((levels.clip(0, 65535) >> 8).astype("uint8"))
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(levels == clear, 0, 255).astype("uint8"))))
