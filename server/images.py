"""From bytes a stranger sent to one safe RGB picture. Nothing is ever fetched and no path is ever opened.

Sizes are checked on the file's header, before any pixel is decoded; only five formats are known to the decoder.
"""

import asyncio
import base64
import binascii
import hashlib
import io
import re

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cos.search.errors import InputError
from cos.search.types import Picture
from cos.server.errors import BadImage, ImageUrlDisabled

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_ASPECT = 200
"""Longer side over shorter side: beyond it image processors fail or make thousands of tiles."""
DECODERS = 2
"""Pictures decoded at once, each in a thread of its own."""

_DATA_URI = re.compile(r"data:(?P<type>[^,;]*)(?P<options>(?:;[^,;]*)*),", re.IGNORECASE)
_SCHEME = re.compile(r"\s*([a-zA-Z][a-zA-Z0-9+.-]*):")
_BLANK = str.maketrans("", "", " \t\r\n")


class ImageReader:
    """Decodes pictures, a few at a time."""

    def __init__(self, max_megapixels: float) -> None:
        self._max_megapixels = max_megapixels
        self._gate = asyncio.Semaphore(DECODERS)

    async def from_text(self, text: str, param: str) -> Picture:
        """A picture from a data URI or bare base64. Errors: BadImage, ImageUrlDisabled."""
        _refuse_address(text, param)
        async with self._gate:
            return await asyncio.to_thread(lambda: decode(decode_base64(text, param), self._max_megapixels, param))

    async def from_bytes(self, data: bytes, param: str) -> Picture:
        """A picture from a file's bytes. Errors: BadImage."""
        async with self._gate:
            return await asyncio.to_thread(decode, data, self._max_megapixels, param)


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


def decode(data: bytes, max_megapixels: float, param: str) -> Picture:
    """One upright RGB picture, the first frame of an animation, transparency on white. Errors: BadImage."""
    if not data:
        raise BadImage(f"{param}: empty; send a picture", param)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            _check_size(opened.width, opened.height, max_megapixels, param)
            image = _to_rgb(_upright(opened))
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
    digest = hashlib.sha256(f"{image.mode}:{image.width}x{image.height}:".encode() + image.tobytes())
    return Picture(image, digest.hexdigest())


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


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says, which is read after the pixels: a broken EXIF block turns nothing."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits a pixel; Pillow's own conversion would clip instead of scaling.
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype("uint8"))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")
